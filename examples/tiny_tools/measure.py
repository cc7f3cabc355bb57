"""What a policy does on products it never saw, with its tools and without, and in how many ways.

    python -m examples.tiny_tools.measure RUN [RUN ...] --problems FILE

samples `hf/final` of every RUN four times a product, with its tools and once more in a single turn,
in which there are none. Into each RUN's folder go `measured/` with every sample, and
`measured/measures.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from examples.tiny_tools.make_data import is_of_table
from megatron_stare.compare.paired import paired_difference
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.evaluation import EvalConfig
from megatron_stare.config_io import load_config
from megatron_stare.evaluate_folder import evaluate_folder
from megatron_stare.observe.history import read_metrics
from megatron_stare.observe.run_folders import BAND
from megatron_stare.system.folders import write_whole

HERE = Path(__file__).parent
NUM_SAMPLES = 4
SHARES = {
    "right": "right",
    "right_alone": "right without tools",
    "called": "called",
    "table_right": "table: right",
    "table_alone": "table: right without tools",
    "table_called": "table: called",
    "well_formed": "calls well-formed",
    "went_well": "calls that went well",
    "by_python": "calls of python",
}
COUNTS = {"calls": "calls a sample", "wordings": "ways", "entropy": "entropy (nats)"}
Sample = Mapping[str, Any]
Measures = Mapping[str, float]
ByPolicy = Mapping[tuple[str, int], Measures]
"""By the name of the policy and the seed."""


def measure_policy(run: Path, problems: Path) -> dict[str, float]:
    """Sample `hf/final` of a run on products, and write what it is like.

    Raises:
        UserError: there is no such model, or the products cannot be read.
    """
    with_tools = sample_policy(run, problems, "with_tools", max_turns=4)
    alone = sample_policy(run, problems, "alone", max_turns=1)
    found = summarise(with_tools, alone) | entropy_of(run)
    text = json.dumps(found, indent=2) + "\n"
    write_whole(run / "measured" / "measures.json", text)
    return found


def sample_policy(run: Path, problems: Path, name: str, *, max_turns: int) -> list[Sample]:
    """Every sample, as `megatron-stare eval` writes them to `measured/NAME`."""
    folder = run / "measured" / name
    trained = load_config(TrainConfig, HERE / "train.yaml").model_dump(mode="json")
    evaluation = trained["eval"] | {"samples_per_prompt": NUM_SAMPLES, "max_prompts": None}
    evaluation["data"]["path"] = str(problems)
    evaluation["turns"]["max_turns"] = max_turns
    tree = {key: trained[key] for key in ("workflow", "tools", "reward")}
    tree |= {"run": {"dir": folder, "seed": 1}, "model": {"path": run / "hf" / "final"}}
    tree |= {"eval": evaluation, "log": {"progress": False}}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluate_folder(EvalConfig.model_validate(tree))
    with (folder / "eval_samples.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def summarise(with_tools: Sequence[Sample], alone: Sequence[Sample]) -> dict[str, float]:
    """What samples are like: shares and counts, of products beside the table unless it says so.

    right         of samples that may call
    right_alone   of samples of one turn, in which nothing can be called
    calls         that were made, a sample
    called        samples that made one
    well_formed   of all calls that were written, those that could be made
    went_well     of those that were made: the program ended, the expression was one
    by_python     of all calls that were written, those of python
    wordings      different samples, numbers masked, of a hundred right ones
    """
    others, table = by_kind(with_tools)
    others_alone, table_alone = by_kind(alone)
    made = [calls_of(sample) for sample in others]
    turns = [turn for sample in others for turn in sample["turns"]]
    written = sum(turn["num_calls"] + turn["num_invalid"] for turn in turns)
    num_made = sum(made)
    right = [sample for sample in others if sample["correct"] == 1]
    of_python = sum('"name": "python"' in turn["text"] for turn in turns)
    return {
        "right": len(right) / len(others),
        "right_alone": mean(sample["correct"] for sample in others_alone),
        "table_right": mean(sample["correct"] for sample in table),
        "table_alone": mean(sample["correct"] for sample in table_alone),
        "table_called": mean(calls_of(sample) > 0 for sample in table),
        "called": mean(count > 0 for count in made),
        "well_formed": num_made / max(written, 1),
        "went_well": sum(turn["num_ok"] for turn in turns) / max(num_made, 1),
        "by_python": of_python / max(written, 1),
        "calls": mean(made),
        "wordings": len({wording_of(sample) for sample in right[:100]}),
    }


def by_kind(samples: Iterable[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Those that need a tool, and those of the table."""
    parts: tuple[list[Sample], list[Sample]] = ([], [])
    for sample in samples:
        *_, (a, b) = re.findall(r"(\d+)\*(\d+)", sample["prompt"])
        parts[is_of_table((int(a), int(b)))].append(sample)
    return parts


def calls_of(sample: Sample) -> int:
    """Calls that were made."""
    return sum(turn["num_calls"] for turn in sample["turns"])


def wording_of(sample: Sample) -> str:
    """What the model wrote, numbers masked."""
    own = "\n".join(turn["text"] for turn in sample["turns"] if turn["kind"] == "model")
    return re.sub(r"\d+", "#", own)


def entropy_of(run: Path) -> dict[str, float]:
    """Mean over the last half of its steps, and the share of them within the band."""
    history = read_metrics(run)
    if "entropy/mean" not in history:
        return {}
    entropy = history["entropy/mean"].values
    entropy = entropy[len(entropy) // 2 :]
    found = {"entropy": float(entropy.mean())}
    if "stare/target" in history:
        target = history["stare/target"].values[-1]
        found["in_band"] = float((abs(entropy - target) <= BAND * target).mean())
    return found


def markdown_table(measures: ByPolicy) -> str:
    """A row a policy and seed; shares in percent."""
    header = ["seed", "policy", *SHARES.values(), *COUNTS.values(), "in the band"]
    lines = [header, ["---"] * len(header)]
    for (name, seed), found in sorted(measures.items(), key=lambda item: item[0][1]):
        shares = [f"{100 * found[key]:.1f}" for key in SHARES]
        counts = [f"{found[key]:.2f}" if key in found else "" for key in COUNTS]
        in_band = f"{100 * found['in_band']:.0f}" if "in_band" in found else ""
        lines.append([str(seed), name, *shares, *counts, in_band])
    return _lines(lines)


def paired_table(measures: ByPolicy, name: str, baseline: str) -> str:
    """What one policy has more than another, paired by seed, with half the 95% interval."""
    lines = [["quantity", f"{name} - {baseline}", "±"], ["---"] * 3]
    for key, title in {**SHARES, **COUNTS}.items():
        scale = 100 if key in SHARES else 1
        ours, theirs = (
            {seed: scale * found[key] for (of, seed), found in measures.items() if of == policy}
            for policy in (name, baseline)
        )
        if (found := paired_difference(ours, theirs)) is not None:
            width = "" if found.half_width is None else f"{found.half_width:.2f}"
            lines.append([title, f"{found.mean:+.2f}", width])
    return _lines(lines)


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure policies on products.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--problems", type=Path, required=True)
    arguments = parser.parse_args()
    measures = {(run.name, 0): measure_policy(run, arguments.problems) for run in arguments.runs}
    print(markdown_table(measures), end="")


if __name__ == "__main__":
    main()
