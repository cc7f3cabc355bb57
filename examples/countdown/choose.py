"""Settings of STARE for countdown, chosen on dev as docs/countdown_plan.md says.

    python -m examples.countdown.choose [--seeds 1 2 3] [--runs FOLDER] [--jobs N] [--steps BUDGET]
                                        [--results FILE]

goes through the plan's table row by row: the candidates of a row are run from the warm-up of each
seed, the others of their settings being the best so far, and the best of the row stays. DAPO runs
beside them. Then, for each budget asked for by `--steps` (`drawn`: prompts, `processor_s`: seconds
of processor time), the number of steps is set with which the best costs as much as DAPO.
FOLDER/choice.json has every candidate's pass@1 by seed, what each row left, and those numbers;
choice.md there is the same as a table. What is done already is not done again, and what FILE has of
a run counts as done, whichever machine it ran on; without one it is FOLDER/dev.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from examples.countdown.demo import HERE, from_warmups, megatron_stare, warm_up
from examples.countdown.measure import COSTS, costs, sample_policy, summarise
from examples.countdown.results import Results
from megatron_stare.errors import UserError
from megatron_stare.system.folders import write_whole

STEPS = 240
CLOSE, MOST_TRIES = 0.02, 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """STARE's settings that the plan looks at; the defaults are those of compare.yaml.

    target, end   entropy in nats a token, held first and at the end; the same where it is fixed
    falls         the steps between which it moves, as shares of the run
    """

    target: float = 0.25
    end: float = 0.25
    falls: tuple[float, float] = (2 / 3, 1)
    w_max: float = 5
    variant: str = "O1"

    @property
    def name(self) -> str:
        """Of its runs; candidates that train alike have one name.

        >>> Candidate().name, Candidate(0.5, 0.2, (0.5, 1)).name
        ('target0.25-w5-O1', 'target0.5-0.2-from120-to240-w5-O1')
        """
        first, last = (round(share * STEPS) for share in self.falls)
        moves = f"-{self.end}-from{first}-to{last}" if self.end != self.target else ""
        return f"target{self.target}{moves}-w{self.w_max:g}-{self.variant}"

    def settings(self, steps: int = STEPS) -> dict[str, Any]:
        """What its runs have different from train.yaml."""
        first, last = (round(share * steps) for share in self.falls)
        moves = {"to": self.end, "from_step": first, "to_step": last}
        own = {"target_entropy": self.target, "w_max": self.w_max, "variant": self.variant}
        anneal = {"anneal": moves} if self.end != self.target else {}
        return {"algorithm": {"stare": own | anneal}}


ROWS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "target": [
        {"target": 0.25, "end": 0.25},
        {"target": 0.4, "end": 0.2},
        {"target": 0.5, "end": 0.2},
        {"target": 0.5, "end": 0.1},
    ],
    "begins to fall": [{"falls": (1 / 2, 1)}, {"falls": (2 / 3, 1)}],
    "largest W": [{"w_max": 1.5}, {"w_max": 5}, {"w_max": 10}],
    "variant": [{"variant": "O1"}, {"variant": "C2"}],
    "gate opens": [{}, {"target": 0.65, "end": 0.4, "falls": (0, 60 / STEPS)}],
}
"""The plan's table, in its order."""

Scores = Sequence[float]
"""pass@1 on dev, by seed."""


def better(scores: Mapping[Candidate, Scores]) -> Candidate:
    """The candidate of the largest mean, and the first that is within an error of it.

    The error is the standard error of their paired difference over the seeds.

    >>> a, b = Candidate(), Candidate(0.5, 0.2)
    >>> better({a: [0.3, 0.4], b: [0.35, 0.36]}) == a, better({a: [0.3, 0.4], b: [0.4, 0.49]}) == b
    (True, True)
    """
    best = max(scores, key=lambda candidate: mean(scores[candidate]))
    for candidate, of_candidate in scores.items():
        gaps = [b - c for b, c in zip(scores[best], of_candidate, strict=True)]
        error = stdev(gaps) / sqrt(len(gaps)) if len(gaps) > 1 else 0.0
        if mean(gaps) <= error:
            return candidate
    return best


class Dev:
    """Runs candidates from the warm-ups of the seeds, and measures their policies on dev."""

    def __init__(self, seeds: Sequence[int], runs: Path, jobs: int, results: Results) -> None:
        self.seeds, self.runs, self.jobs, self.results = seeds, runs, jobs, results

    def run(self, variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Scores]:
        """Pass@1 of each variant, by seed.

        Raises:
            UserError: a run ended with an error, or a warm-up did not get through.
        """
        for seed in self.seeds:
            left = {n: v for n, v in variants.items() if self.results.of(n, seed) is None}
            if left:
                self._run_seed(seed, left)
        return {name: [found["pass_at"][1] for found in self._found(name)] for name in variants}

    def cost(self, name: str, budget: str) -> float:
        """What a run's steps have cost, mean over the seeds (`measure.costs`)."""
        return mean(found[budget] for found in self._found(name))

    def _found(self, name: str) -> list[dict[str, Any]]:
        return [found for seed in self.seeds if (found := self.results.of(name, seed))]

    def _run_seed(self, seed: int, variants: Mapping[str, Mapping[str, Any]]) -> None:
        warm_up(seed, self.runs)
        megatron_stare(
            *("compare", HERE / "compare.yaml", *from_warmups(self.runs, [seed])),
            *(f"settings.train.steps={STEPS}", f"jobs={self.jobs}", "settings.log.progress=false"),
            *(f"variants={json.dumps(dict(variants))}", f"baseline={next(iter(variants))}"),
        )
        for name in variants:
            run = self.runs / f"{name}-seed{seed}"
            policy = sample_policy(run, self.runs / f"data-seed{seed}/dev.jsonl")
            self.results.add(name, seed, summarise(policy, policy) | costs(run))


def choose(dev: Dev, budgets: Sequence[str]) -> dict[str, Any]:
    """Go through the rows; what each candidate reached, what each row left, steps by budget."""
    best, rows = Candidate(), []
    dapo = dev.run({"dapo": {"algorithm.method": "grpo"}})["dapo"]
    print(f"dapo: {_percents(dapo)}", flush=True)
    for row, changes in ROWS.items():
        candidates = {replace(best, **change).name: replace(best, **change) for change in changes}
        found = dev.run({name: one.settings() for name, one in candidates.items()})
        best = better({candidates[name]: scores for name, scores in found.items()})
        rows.append({"row": row, "pass_at_1": found, "stays": best.name})
        for name, scores in found.items():
            mark = " <- stays" if name == best.name else ""
            print(f"{row}: {name}: {_percents(scores)}{mark}", flush=True)
    steps = {budget: steps_to_spend(dev, best, budget) for budget in budgets}
    return {"dapo": dapo, "rows": rows, "best": asdict(best), "steps": steps}


def steps_to_spend(dev: Dev, best: Candidate, budget: str) -> int:
    """Steps with which a candidate costs what DAPO has cost after `STEPS`, within 2%.

    Where a target falls, it falls later in a longer run: what that costs is found by trying.
    """
    allowed, steps, name = dev.cost("dapo", budget), STEPS, best.name
    for _ in range(MOST_TRIES):
        wanted = round(steps * allowed / dev.cost(name, budget))
        if abs(wanted - steps) <= CLOSE * steps:
            return steps
        steps, name = wanted, f"{best.name}-{wanted}steps"
        dev.run({name: best.settings(steps) | {"train": {"steps": steps}}})
    return steps


def _percents(scores: Scores) -> str:
    each = ", ".join(f"{100 * score:.1f}" for score in scores)
    return f"{100 * mean(scores):.1f} ({each})"


def markdown(choice: Mapping[str, Any]) -> str:
    """A row a candidate: pass@1 on dev in percent, the mean and each seed."""
    lines = ["| row | candidate | pass@1 on dev (each seed) |", "|---|---|---|"]
    lines.append(f"| | dapo | {_percents(choice['dapo'])} |")
    for row in choice["rows"]:
        for name, scores in row["pass_at_1"].items():
            shown = f"**{name}**" if name == row["stays"] else name
            lines.append(f"| {row['row']} | {shown} | {_percents(scores)} |")
    for budget, steps in choice["steps"].items():
        lines.append(f"| steps | as much {budget} as dapo | {steps} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Warm up, choose, and write what came of it."""
    parser = argparse.ArgumentParser(description="Choose STARE's settings for countdown on dev.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default=Path("runs/countdown-choice"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--steps", nargs="*", choices=COSTS, default=list(COSTS))
    parser.add_argument("--results", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    results = Results(arguments.results or arguments.runs / "dev.jsonl")
    dev = Dev(arguments.seeds, arguments.runs, arguments.jobs, results)
    try:
        choice = choose(dev, arguments.steps)
    except UserError as error:
        print(f"choose: {error}", file=sys.stderr)
        return 2
    arguments.runs.mkdir(parents=True, exist_ok=True)
    text = json.dumps(choice, indent=2) + "\n"
    write_whole(arguments.runs / "choice.json", text)
    write_whole(arguments.runs / "choice.md", markdown(choice))
    return 0


if __name__ == "__main__":
    sys.exit(main())
