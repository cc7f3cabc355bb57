"""`megatron-stare pivots`: states of which a policy's continuations are right and wrong."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from megatron_stare.config.data import DataConfig
from megatron_stare.config.evaluation import FolderConfig
from megatron_stare.config.pivots import PivotsConfig
from megatron_stare.config.rollout import EngineConfig
from megatron_stare.data.states import states_of, write_states
from megatron_stare.data.tables import build_rows
from megatron_stare.data.tokenizer import load_tokenizer
from megatron_stare.errors import UserError
from megatron_stare.observe.console import Progress, open_console, print_line
from megatron_stare.rollout.lineage import fingerprint
from megatron_stare.rollout.of_folder import Asked, FolderRollouts, open_folder_rollouts
from megatron_stare.rollout.profile import KINDS, kind_of, profile
from megatron_stare.system.folders import replacing_file, write_whole
from megatron_stare.system.output import check_folder, make_folder, writing
from megatron_stare.system.records import RecordFile
from megatron_stare.types import Prompt


def find_pivots(config: PivotsConfig) -> dict[str, int]:
    """Profile the states of `config.data` with the embedded engine; write those that are kept.

    `pivots.jsonl` holds their rows, with `pass_rate` and `num_samples`; `pivots.json` how many
    states were of which kind (`rollout/profile.py`), which is returned, too. What was profiled
    stands in a file of these settings, which the same command goes on with.

    Raises:
        UserError: bad input, or no state is kept.
    """
    check_folder(config.run.dir, "run.dir")
    console = open_console(quiet=False)
    progress = Progress(console, bars=config.log.progress)
    with tempfile.TemporaryDirectory() as folder:
        data, section = config.data, config.pivots
        if section.response_field is not None:
            tokenizer = load_tokenizer(config.model.path)
            found, said = states_of(data, section.response_field, section.cut, tokenizer)
            print_line(console, said)
            data = write_states(found, Path(folder) / "states.jsonl", data)
        asked = FolderConfig(  # Its continuations are single turns.
            run=config.run,
            model=config.model,
            rollout=EngineConfig(max_batch_sequences=section.max_batch_sequences),
            reward=config.reward,
        )
        problems = {"data": Asked(data, section.max_response_tokens)}
        report = partial(print_line, console)
        with open_folder_rollouts(asked, problems, report=report) as rollouts:
            # Of like length together: less padding.
            states = sorted(rollouts.problems("data"), key=lambda prompt: len(prompt.token_ids))
            total = len(states) * section.samples_per_state
            with (
                _records(config, rollouts) as (records, save),
                progress.phase("profile", total) as advance,
            ):
                verdicts = profile(
                    *(rollouts, states, section),
                    seed=config.run.seed,
                    records=records,
                    save=save,
                    on_progress=advance,
                )
        return _write(config, data, dict(zip(states, verdicts, strict=True)))


@contextmanager
def _records(
    config: PivotsConfig, rollouts: FolderRollouts
) -> Iterator[tuple[list[bytes], Callable[[bytes], None]]]:
    """What was profiled under these settings, of these states, and how to add to it."""
    sections = config.model_dump(mode="json", include={"run", "model", "reward", "pivots"})
    del sections["run"]["dir"], sections["pivots"]["max_mean"]
    states = [prompts.state_dict() for prompts in rollouts.sets["data"].values()]
    parts = sections, states, rollouts.scorer.code
    name = fingerprint(config.model.path, *parts)
    folder = config.run.dir
    make_folder(folder, "run.dir")
    with writing(folder, "run.dir"):
        file = RecordFile(folder / f"profile-{name}.records", name.encode())

    def save(record: bytes) -> None:
        with writing(folder, "run.dir"):
            file.append(record)

    try:
        yield file.found, save
    finally:
        file.close()


def _write(
    config: PivotsConfig, data: DataConfig, verdicts: Mapping[Prompt, Sequence[float]]
) -> dict[str, int]:
    kinds = {p.row: kind_of(found, config.pivots.max_mean) for p, found in verdicts.items()}
    of_row = {prompt.row: found for prompt, found in verdicts.items()}
    counts = Counter(kinds.values())
    numbers = {"states": len(kinds), **{kind: counts[kind] for kind in KINDS}}
    if not counts["kept"]:
        shown = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        raise UserError(
            f"pivots.max_mean={config.pivots.max_mean:g}: none of {len(kinds)} states is kept "
            f"({shown}); expected states nearer to what the policy can do, or a larger max_mean"
        )
    rows, _ = build_rows(data.file, lambda row: row)
    folder = config.run.dir
    with (
        writing(folder, "run.dir"),
        replacing_file(folder / "pivots.jsonl") as unfinished,
        unfinished.open("w") as file,
    ):
        for row in rows:
            if kinds.get(row.name) == "kept":
                found = of_row[row.name]
                pass_rate = {"pass_rate": sum(found) / len(found), "num_samples": len(found)}
                file.write(_line({**row.fields, **pass_rate}))
    with writing(folder, "run.dir"):
        write_whole(folder / "pivots.json", json.dumps(numbers, indent=2) + "\n")
    return numbers


def _line(row: Mapping[str, Any]) -> str:
    """Values of Parquet that JSON does not have, such as dates, as text."""
    return json.dumps(row, default=str) + "\n"
