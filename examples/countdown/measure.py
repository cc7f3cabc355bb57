"""What a policy can do on problems it never saw, problem by problem, and what it lost on the way.

    python -m examples.countdown.measure RUN [RUN ...] --problems FILE --warmup RUN

samples `hf/final` of every RUN on FILE, and of the warm-up that they began from: 16 times a problem
at temperature 1, the policy that was trained, and 4 times at 0.3, as it might be deployed. Writes
into each RUN's folder `measured/`

    problems.jsonl   a line a problem: the form that alone solves it, if one does, how many of its
                     answers are right, and how many of all answers have which form
    measures.json    what is made of them (`summarise`)

and prints the table.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from examples.countdown.make_data import expressions
from examples.countdown.verifier import FORMS, read_expression, read_problem
from megatron_stare.config.evaluation import EvalConfig
from megatron_stare.evaluate_folder import evaluate_folder
from megatron_stare.observe.history import read_metrics
from megatron_stare.rollout.measures import pass_at_k
from megatron_stare.system.folders import write_whole

TRAINED, DEPLOYED = 1.0, 0.3
NUM_SAMPLES = {TRAINED: 16, DEPLOYED: 4}
"""Samples a problem, by temperature."""
BUDGETS = (1, 2, 4, 8, 16)
FEWEST = 20
"""Problems that a form must be alone to solve, for a rate of it to say anything."""
LOST = 0.5
"""A form is lost if pass@16 of what it alone solves fell below this share of the warm-up's."""


COSTS = {"drawn": "rollout/drawn", "processor_s": "time/processor_s"}
"""Metrics that a run's steps cost, summed."""


class Measured(NamedTuple):
    """One problem's answers: how many are right, of how many, and the forms of those sampled.

    only_form       the form of all its solutions; None where they have several
    needs_product   no sum solves it
    forms           of the answers at temperature 1 that use the problem's numbers, by form
    """

    problem: str
    only_form: str | None
    needs_product: bool
    num_samples: int
    num_correct: int
    num_deployed: int
    num_deployed_correct: int
    forms: Mapping[str, int]


def solving_forms(problem: str) -> set[str]:
    """The forms that solve it.

    >>> sorted(solving_forms("02,03,05>11"))
    ['a*b+c']
    """
    numbers, target = read_problem(problem)
    return {e.form for e in expressions(numbers) if e.value == target}


def form_of(response: str, problem: str) -> str | None:
    """The form of an answer, right or wrong; None where it does not use the problem's numbers."""
    expression = read_expression(response)
    numbers, _ = read_problem(problem)
    if expression is None or sorted(expression.numbers) != sorted(numbers):
        return None
    return expression.form


def measure_problem(
    problem: str, trained: Sequence[Mapping[str, Any]], deployed: Sequence[Mapping[str, Any]]
) -> Measured:
    """From its samples at both temperatures, as `megatron-stare eval` writes them."""
    forms = solving_forms(problem)
    written = Counter(form_of(sample["response"], problem) for sample in trained)
    return Measured(
        problem,
        next(iter(forms)) if len(forms) == 1 else None,
        "sums" not in forms,
        len(trained),
        sum(sample["correct"] == 1 for sample in trained),
        len(deployed),
        sum(sample["correct"] == 1 for sample in deployed),
        {form: written[form] for form in FORMS if written[form]},
    )


def pass_rate(problems: Iterable[Measured], k: int) -> float | None:
    """Mean pass@k; None without problems."""
    rates = [pass_at_k(p.num_samples, p.num_correct, k) for p in problems]
    return mean(rates) if rates else None


def summarise(problems: Sequence[Measured], warmup: Sequence[Measured]) -> dict[str, Any]:
    """The numbers of a policy, shares all.

    pass_at         by k
    deployed        accuracy at temperature 0.3
    product_pass_at by k, of problems that need a product
    only            by form: pass@16 of the problems that it alone solves, if they are `FEWEST`
    written         by form: of the answers that use their problem's numbers
    lost_problems   of the problems that the warm-up's samples solve, those that none here solves
    lost_forms      forms whose `only` fell below half of the warm-up's
    """
    product = [p for p in problems if p.needs_product]
    written = Counter[str]()
    for problem in problems:
        written.update(problem.forms)
    solved = {p.problem for p in problems if p.num_correct}
    solved_before = {p.problem for p in warmup if p.num_correct}
    only, only_before = _only(problems), _only(warmup)
    return {
        "pass_at": {k: pass_rate(problems, k) for k in BUDGETS},
        "deployed": mean(p.num_deployed_correct / p.num_deployed for p in problems),
        "product_pass_at": {k: pass_rate(product, k) for k in BUDGETS},
        "only": only,
        "written": {f: written[f] / max(written.total(), 1) for f in FORMS},
        "lost_problems": len(solved_before - solved) / max(len(solved_before), 1),
        "lost_forms": [f for f in only if only[f] < LOST * only_before[f]],
    }


def _only(problems: Sequence[Measured]) -> dict[str, float]:
    by_form = {form: [p for p in problems if p.only_form == form] for form in FORMS}
    rates = {
        f: pass_rate(found, BUDGETS[-1]) for f, found in by_form.items() if len(found) >= FEWEST
    }
    return {form: rate for form, rate in rates.items() if rate is not None}


def sample_policy(
    run: Path, problems: Path, policy: str = "final", into: str = "measured"
) -> list[Measured]:
    """Sample `hf/POLICY` of a run on a file of problems, and write `problems.jsonl` into a folder.

    Raises:
        UserError: there is no such model, or the problems cannot be read.
    """
    by_temperature = {
        t: _samples(run / "hf" / policy, problems, t, run / into) for t in NUM_SAMPLES
    }
    trained, deployed = by_temperature[TRAINED], by_temperature[DEPLOYED]
    measured = [measure_problem(p, trained[p], deployed[p]) for p in trained]
    lines = (json.dumps(problem._asdict()) + "\n" for problem in measured)
    write_whole(run / into / "problems.jsonl", "".join(lines))
    return measured


def _samples(model: Path, problems: Path, temperature: float, into: Path) -> dict[str, list[Any]]:
    """Of each problem, in the file's order."""
    folder = into / f"temperature_{temperature}"
    tree = {
        "run": {"dir": folder, "seed": 1},
        "model": {"path": model},
        "reward": {"kind": "examples.countdown.verifier:countdown_reward", "workers": 1},
        "eval": {
            "data": {"path": problems, "max_prompt_tokens": 12},
            "samples_per_prompt": NUM_SAMPLES[temperature],
            "max_response_tokens": 8,
            "temperature": temperature,
        },
        "log": {"progress": False},
    }
    with contextlib.redirect_stdout(io.StringIO()):
        evaluate_folder(EvalConfig.model_validate(tree))
    with (folder / "eval_samples.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {problem: list(group) for problem, group in groupby(rows, key=lambda row: row["answer"])}


def measure_runs(runs: Sequence[Path], problems: Path, warmup: Path) -> dict[str, dict[str, Any]]:
    """Measures of the warm-up and of the runs from it, by the name of their folders."""
    start = sample_policy(warmup, problems)
    found = {}
    for run in (warmup, *runs):
        measured = start if run == warmup else sample_policy(run, problems)
        found[run.name] = summarise(measured, start) | costs(run)
        text = json.dumps(found[run.name], indent=2) + "\n"
        write_whole(run / "measured" / "measures.json", text)
    return found


def costs(run: Path) -> dict[str, float]:
    """Prompts drawn and processor seconds of a run's steps; of each, if it logged them."""
    history = read_metrics(run)
    return {
        key: float(history[name].values.sum()) for key, name in COSTS.items() if name in history
    }


def markdown_table(measures: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a policy, shares in percent; the forms are those of the first.

    What a policy cost are its own steps: the warm-up's are not among those of the runs from it.
    """
    forms = list(next(iter(measures.values()))["only"])
    header = [
        "policy",
        *("pass@1", "accuracy at T=0.3", "pass@16"),
        *("products: pass@1", "pass@16", "problems lost", "forms lost"),
        *(f"only {form}" for form in forms),
        *("prompts drawn", "processor seconds"),
    ]
    lines = [header, ["---"] * len(header)]
    for name, found in measures.items():
        shares = [
            *(found["pass_at"][1], found["deployed"], found["pass_at"][16]),
            *(found["product_pass_at"][1], found["product_pass_at"][16], found["lost_problems"]),
        ]
        only = [found["only"].get(form) for form in forms]
        lost = ", ".join(found["lost_forms"]) or "none"
        cost = [f"{found[key]:,.0f}" if key in found else "" for key in ("drawn", "processor_s")]
        lines.append([name, *map(_percent, shares), lost, *map(_percent, only), *cost])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure policies on countdown problems.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--problems", type=Path, required=True)
    parser.add_argument("--warmup", type=Path, required=True)
    arguments = parser.parse_args()
    measures = measure_runs(arguments.runs, arguments.problems, arguments.warmup)
    print(markdown_table(measures), end="")


if __name__ == "__main__":
    main()
