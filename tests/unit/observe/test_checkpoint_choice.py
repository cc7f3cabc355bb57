"""SharpeRatio@k: the published example, and which checkpoints it is of."""

import math

import pytest

from megatron_stare.observe.checkpoint_choice import checkpoint_sharpe_ratio, sharpe_ratio
from megatron_stare.observe.run_folders import read_runs
from megatron_stare.observe.summary import summarise
from tests.unit.observe.synthetic import write_metrics


def test_three_policies_by_hand():
    # Mean 0.75, squares 0.0225 + 0.0225, std 0.15; the best is 0.2 above.
    assert sharpe_ratio([0.9, 0.6, 0.75], baseline=0.7) == pytest.approx(4 / 3, abs=1e-12)


def test_a_choice_that_gains_nothing_is_worth_nothing():
    assert sharpe_ratio([0.25, 0.5], baseline=0.75) == 0


@pytest.mark.parametrize("values", [[], [0.9], [0.5, 0.5, 0.5]])
def test_without_a_spread_there_is_no_ratio(values):
    assert sharpe_ratio(values, baseline=0.1) is None


def run_of(folder, held_out, training):
    steps: dict[int, dict[str, float]] = {
        step: {"eval/avg_at_k": v} for step, v in held_out.items()
    }
    for step, value in training.items():
        steps.setdefault(step, {})["reward/accuracy"] = value
    write_metrics(folder, dict(sorted(steps.items())))
    return read_runs([folder])


HELD_OUT = {0: 0.7, 2: 0.6, 4: 0.9, 6: 0.1, 8: 0.75}
TRAINING = {1: 1.0, 2: 0.5, 4: 0.8, 6: 0.2, 8: 0.6}


def test_checkpoints_are_chosen_by_training_and_judged_by_held_out_accuracy(tmp_path):
    runs = run_of(tmp_path / "a", HELD_OUT, TRAINING)
    # Training likes 4, 8 and 2: the example above. Step 1 has no evaluation.
    assert checkpoint_sharpe_ratio(runs["a"][0]) == pytest.approx(4 / 3, abs=1e-12)
    table = {row[0]: row[1] for row in summarise(runs).rows}
    assert table["SharpeRatio@3 of checkpoints"] == "1.33"


@pytest.mark.parametrize(
    "held_out",
    [
        {2: 0.6, 4: 0.9, 6: 0.1},
        {0: math.nan, 2: 0.6, 4: 0.9, 6: 0.1},
        {0: 0.7, 2: 0.6, 4: 0.9},
        {0: 0.7, 2: 0.6, 4: math.nan, 6: 0.1},
    ],
    ids=["start not evaluated", "start unknown", "two checkpoints", "one unknown"],
)
def test_too_little_is_known(tmp_path, held_out):
    assert checkpoint_sharpe_ratio(run_of(tmp_path / "a", held_out, TRAINING)["a"][0]) is None
