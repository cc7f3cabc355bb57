"""The plan's test: the chosen STARE against DAPO on fresh seeds, at equal cost.

    python -m examples.countdown.trial CHOICE [--seeds 101 ... 110] [--runs FOLDER] [--jobs N]
                                       [--results FILE]

CHOICE is the choice.json of examples/countdown/choose.py. Of each seed there are a warm-up, STARE
to the number of steps for each budget, and DAPO with a policy saved every `SAVED` steps; a seed
whose warm-up is refused is named, and the next one takes its place. When a seed's runs are over,
each STARE policy is measured on test beside the first DAPO policy of the seed that has cost at
least as much. When all seeds are, FOLDER/trial.json has the measures of every policy, trial.md
there the paired differences with 95% intervals. What is done already is not done again, and what
FILE has of a seed counts as done, whichever machine it ran on; without one it is FOLDER/test.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.countdown.choose import Candidate
from examples.countdown.demo import HERE, exit_code_of, from_warmups, warm_up
from examples.countdown.measure import COSTS, costs, sample_policy, summarise
from examples.countdown.results import Results
from examples.countdown.warmup import FailedWarmUp
from megatron_stare.compare.paired import Difference, paired_difference
from megatron_stare.errors import UserError
from megatron_stare.observe.history import History, read_metrics
from megatron_stare.system.folders import write_whole

DAPO_STEPS, SAVED = 360, 10
MEASURES = {
    "pass@1": lambda found: found["pass_at"][1],
    "accuracy at T=0.3": lambda found: found["deployed"],
    "pass@16": lambda found: found["pass_at"][16],
    "products: pass@1": lambda found: found["product_pass_at"][1],
    "products: pass@16": lambda found: found["product_pass_at"][16],
    "problems lost": lambda found: found["lost_problems"],
}
"""Shares of a policy, the primary one first."""


def variants(choice: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The runs of a seed, as `megatron-stare compare` takes them."""
    best = choice["best"]
    candidate = Candidate(**best | {"falls": tuple(best["falls"])})
    runs: dict[str, dict[str, Any]] = {
        f"stare_{budget}": candidate.settings(steps) | {"train": {"steps": steps}}
        for budget, steps in choice["steps"].items()
    }
    dapo = {"algorithm.method": "grpo", "train": {"steps": DAPO_STEPS, "save_every": SAVED}}
    return runs | {"dapo": dapo}


def measured(
    seeds: Sequence[int], results: Results, measure: Callable[[int], dict[str, Any]]
) -> dict[int, dict[str, Any]]:
    """Of each seed what `measure` finds, and for each whose warm-up it refuses of the next one."""
    found, left = {}, list(seeds)
    while left:
        seed = left.pop(0)
        if (known := results.of("trial", seed)) is None:
            try:
                known = measure(seed)
            except FailedWarmUp as error:
                left.append(max([seed, *left]) + 1)
                print(f"trial: {error}\ntrial: seed {left[-1]} takes its place", flush=True)
                continue
            results.add("trial", seed, known)
        found[seed] = known
    return found


def train(seed: int, runs: Path, jobs: int, arms: Mapping[str, Any]) -> None:
    """The warm-up of a seed and its runs; one that ends early counts with what it has saved.

    Raises:
        FailedWarmUp: it did not get through.
    """
    warm_up(seed, runs)
    exit_code_of(
        *("compare", HERE / "compare.yaml", *from_warmups(runs, [seed])),
        *(f"jobs={jobs}", "settings.log.progress=false", "baseline=dapo"),
        f"variants={json.dumps(dict(arms))}",
    )


def first_as_dear(history: History, metric: str, cost: float, saved: Sequence[int]) -> int:
    """The first of the saved steps until which a run has spent so much; the last if none has."""
    curve = history[metric]
    spent = dict(zip(curve.steps.tolist(), np.cumsum(curve.values).tolist(), strict=True))
    return next((step for step in saved if spent[step] >= cost), saved[-1])


def measure_seed(seed: int, runs: Path, budgets: Sequence[str]) -> dict[str, Any]:
    """What both policies of each budget can do on test.

    Raises:
        UserError: a run has saved nothing.
    """
    problems, warmup = runs / f"data-seed{seed}" / "test.jsonl", runs / f"sft-seed{seed}"
    start = sample_policy(warmup, problems)
    dapo = runs / f"dapo-seed{seed}"
    history = read_metrics(dapo)
    saved = sorted(int(path.name[5:]) for path in dapo.glob("hf/step_*"))
    if not saved:
        raise UserError(f"{dapo}: expected policies in hf/step_*, found none")
    found = {}
    for budget in budgets:
        run = runs / f"stare_{budget}-seed{seed}"
        cost = costs(run)[budget]
        step = first_as_dear(history, COSTS[budget], cost, saved)
        name = f"step_{step:06d}"
        against = sample_policy(dapo, problems, name, f"measured/{name}")
        found[budget] = {
            "cost": cost,
            "dapo_step": step,
            "stare": summarise(sample_policy(run, problems), start),
            "dapo": summarise(against, start),
        }
    return {"warm-up": summarise(start, start), **found}


def differences(
    found: Mapping[int, Mapping[str, Any]], budget: str
) -> dict[str, Difference | None]:
    """STARE's measures less DAPO's, paired by seed."""
    return {
        name: paired_difference(
            {seed: of(all_of[budget]["stare"]) for seed, all_of in found.items()},
            {seed: of(all_of[budget]["dapo"]) for seed, all_of in found.items()},
        )
        for name, of in MEASURES.items()
    }


def markdown(found: Mapping[int, Mapping[str, Any]], budgets: Sequence[str]) -> str:
    """Differences in points with 95% intervals, and below them pass@1 of every seed."""
    lines = [f"| STARE - DAPO, points | {' | '.join(budgets)} |", "|---|" + "---|" * len(budgets)]
    by_budget = {budget: differences(found, budget) for budget in budgets}
    for name in MEASURES:
        cells = [_points(by_budget[budget][name]) for budget in budgets]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "| seed | budget | DAPO's step | pass@1 STARE | pass@1 DAPO |",
        "|---|---|---|---|---|",
    ]
    for seed, all_of in found.items():
        for budget in budgets:
            one = all_of[budget]
            rates = [f"{100 * one[name]['pass_at'][1]:.1f}" for name in ("stare", "dapo")]
            lines.append(f"| {seed} | {budget} | {one['dapo_step']} | {' | '.join(rates)} |")
    return "\n".join(lines) + "\n"


def _points(difference: Difference | None) -> str:
    if difference is None:
        return ""
    width = difference.half_width
    return f"{100 * difference.mean:+.1f}" + ("" if width is None else f" ± {100 * width:.1f}")


def main() -> int:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description="STARE against DAPO at equal cost.")
    parser.add_argument("choice", type=Path, metavar="CHOICE")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(101, 111)))
    parser.add_argument("--runs", type=Path, default=Path("runs/countdown-trial"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    choice = json.loads(arguments.choice.read_text(encoding="utf-8"))
    budgets = [budget for budget in COSTS if budget in choice["steps"]]

    def measure(seed: int) -> dict[str, Any]:
        train(seed, arguments.runs, arguments.jobs, variants(choice))
        return measure_seed(seed, arguments.runs, budgets)

    results = Results(arguments.results or arguments.runs / "test.jsonl")
    try:
        found = measured(arguments.seeds, results, measure)
    except UserError as error:
        print(f"trial: {error}", file=sys.stderr)
        return 2
    text = json.dumps(found, indent=2) + "\n"
    write_whole(arguments.runs / "trial.json", text)
    write_whole(arguments.runs / "trial.md", markdown(found, budgets))
    print(markdown(found, budgets))
    return 0


if __name__ == "__main__":
    sys.exit(main())
