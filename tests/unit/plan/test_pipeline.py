"""Schedules with costs whose end can be worked out by hand."""

import pytest

from megatron_stare.plan.pipeline import pipeline_seconds


@pytest.mark.parametrize("num_stages", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 4, 9])
def test_equal_micro_batches_have_the_known_bubble(num_stages, count):
    """(m + P - 1) slots of a forward and a backward pass."""
    forward, backward = [[1.0] * num_stages] * count, [[2.0] * num_stages] * count
    assert pipeline_seconds(forward, backward) == 3 * (count + num_stages - 1)
    assert pipeline_seconds(forward) == count + num_stages - 1


def test_the_slowest_stage_sets_the_pace():
    assert pipeline_seconds([[1.0, 3.0]] * 5) == 1 + 5 * 3


def test_one_long_micro_batch_holds_up_those_behind_it():
    even = pipeline_seconds([[2.0] * 4] * 4, [[4.0] * 4] * 4)
    uneven = pipeline_seconds([[1.0] * 4] * 3 + [[5.0] * 4], [[2.0] * 4] * 3 + [[10.0] * 4])
    assert uneven > even


def test_without_micro_batches_there_is_nothing_to_wait_for():
    assert pipeline_seconds([], []) == 0.0
