"""What a comparison says of its runs: numbers, gaps and warnings, none of them dropped."""

from __future__ import annotations

import json
import math

import pytest

from megatron_stare.cli import main
from megatron_stare.compare.paired import student_quantile
from megatron_stare.compare.plan import plan_runs
from megatron_stare.compare.results import read_results
from megatron_stare.compare.table import differences_table, means_table, runs_table
from tests.unit.compare.folders import read_comparison, write_base, write_finished

ACCURACIES = {("grpo", 1): 0.25, ("grpo", 2): 0.5, ("stare", 1): 0.5, ("stare", 2): 1.0}


@pytest.fixture
def folder(tmp_path):
    write_base(tmp_path)
    return tmp_path


def compare(folder, accuracies, problems=None, **keys):
    """A comparison whose runs ended with these accuracies; those without one have not begun."""
    config = read_comparison(folder, **keys)
    runs = plan_runs(config)
    for run in runs:
        if (run.name, run.seed) in accuracies:
            write_finished(run, accuracy=accuracies[run.name, run.seed], pass_at_4=1.0)
    said = dict.fromkeys((run.title for run in runs), "not begun") | (problems or {})
    return read_results(runs, config.baseline_name, said)[0]


def test_a_run_is_summed_up_by_its_end(folder):
    values = compare(folder, ACCURACIES).results[0].values
    assert values == {
        "accuracy": 0.25,
        "pass_at_4": 1.0,
        "entropy": 0.25,
        "response_tokens": 10.0,
        "drawn": 32.0,
        "seconds": 8.0,
    }


def test_means_have_their_range_and_differences_their_interval(folder):
    comparison = compare(folder, ACCURACIES)
    header, rows = means_table(comparison)
    assert header[:4] == ["", "seeds", "held-out accuracy (%)", "held-out pass@4 (%)"]
    assert rows[0][:4] == ["grpo", "2 of 2", "37.5 (25.0–50.0)", "100.0"]
    assert rows[1][:4] == ["stare", "2 of 2", "75.0 (50.0–100.0)", "100.0"]
    # d = 1/4, 1/2; half the width is t(1) / 8.
    half_width = student_quantile(1) / 8
    assert comparison.difference("stare", "accuracy").half_width == half_width
    _, rows = differences_table(comparison)
    assert rows == [
        [
            *("stare - grpo", "2", f"+37.5 ± {100 * half_width:.1f}", "+0.0 ± 0.0"),
            *("+0.000 ± 0.000", "+0.0 ± 0.0", "+0 ± 0", "+0 ± 0"),
        ]
    ]


def test_a_run_that_failed_is_named_and_costs_its_pair_alone(folder):
    accuracies = {key: value for key, value in ACCURACIES.items() if key != ("stare", 1)}
    comparison = compare(folder, accuracies, {"stare-seed1": "exit code 2: no | room"})
    assert means_table(comparison)[1][1][:3] == ["stare", "1 of 2", "100.0"]
    assert differences_table(comparison)[1][0][:3] == ["stare - grpo", "1", "+50.0"]
    states = {row[0]: row[-1] for row in runs_table(comparison)[1]}
    assert states["stare-seed1"] == "exit code 2: no | room"
    assert states["stare-seed2"] == "finished"
    assert "stare-seed1 is not in the numbers: exit code 2: no | room" in comparison.warnings


def test_runs_that_nobody_began_are_missing_and_said_to_be(folder):
    comparison = compare(folder, {("grpo", 1): 0.25})
    states = {row[0]: row[-1] for row in runs_table(comparison)[1]}
    missing = ("stare-seed1", "grpo-seed2", "stare-seed2")
    assert states == {"grpo-seed1": "finished", **dict.fromkeys(missing, "not begun")}
    assert means_table(comparison)[1][1][:3] == ["stare", "0 of 2", "–"]
    assert differences_table(comparison)[1][0][1:3] == ["0", "–"]


@pytest.mark.parametrize(("num_seeds", "is_warned"), [(4, True), (5, False)])
def test_fewer_than_five_seeds_are_warned_of(folder, num_seeds, is_warned):
    seeds = list(range(num_seeds))
    accuracies = {(name, seed): 0.5 for name in ("grpo", "stare") for seed in seeds}
    warnings = compare(folder, accuracies, seeds=seeds).warnings
    said = "stare - grpo: 4 of 4 seeds, fewer than 5"
    assert [warning.startswith(said) for warning in warnings] == [True] * is_warned


def test_the_table_of_what_is_there_is_written_as_page_numbers_and_figure(folder, capsys):
    config = read_comparison(folder)
    for run in plan_runs(config)[:2]:
        write_finished(run, accuracy=ACCURACIES[run.name, run.seed], pass_at_4=1.0)
    assert main(["compare", str(folder / "compare.yaml"), "--table"]) == 1
    assert "stare-seed2 is not in the numbers: not begun" in capsys.readouterr().out
    page = (config.dir / "comparison.md").read_text()
    assert "| stare - grpo | 1 | +25.0 |" in page
    assert "| stare-seed2 | – | – | – | – | – | – | not begun |" in page
    tree = json.loads((config.dir / "comparison.json").read_text())
    assert tree["differences"]["stare"]["accuracy"] == {
        "mean": 0.25,
        "half_width": None,
        "seeds": [1],
    }
    assert [run["problem"] for run in tree["runs"]] == [None, None, "not begun", "not begun"]
    assert tree["warnings"]
    assert (config.dir / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_an_evaluation_that_gave_no_number_is_none_and_no_earlier_one_stands_for_it(folder):
    config = read_comparison(folder, seeds=[1])
    runs = plan_runs(config)
    for run in runs:
        write_finished(run, accuracy=math.nan, pass_at_4=math.nan)
    comparison, _ = read_results(runs, "grpo", {})
    assert list(comparison.columns) == ["entropy", "response_tokens", "drawn", "seconds"]
