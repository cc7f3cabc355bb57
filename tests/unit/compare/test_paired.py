"""Paired differences, against numbers worked out by hand and quantiles of printed tables."""

import math

import pytest

from megatron_stare.compare.paired import Difference, paired_difference, student_quantile

# Quantiles of 0.975, from the tables of textbooks.
PRINTED = {
    **{1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262},
    **{10: 2.228, 11: 2.201, 12: 2.179, 15: 2.131, 20: 2.086, 24: 2.064, 30: 2.042, 60: 2.000},
    **{120: 1.980},
}


@pytest.mark.parametrize(("freedom", "printed"), PRINTED.items())
def test_quantiles_are_those_of_the_tables(freedom, printed):
    assert round(student_quantile(freedom), 3) == printed


def test_one_and_two_degrees_of_freedom_have_closed_forms():
    assert student_quantile(1) == pytest.approx(math.tan(0.475 * math.pi), rel=1e-15)
    # P = t / sqrt(2 + t^2), solved for t.
    assert student_quantile(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-14)


def test_many_degrees_of_freedom_are_the_normal_distributions():
    assert student_quantile(10_000) == pytest.approx(1.95996, abs=3e-4)


def test_two_pairs_by_hand():
    # d = 1/4, 1/2: mean 3/8; deviations of 1/8 to both sides, variance 1/32; sqrt(1/32 / 2) = 1/8.
    found = paired_difference({1: 0.5, 2: 0.75}, {1: 0.25, 2: 0.25})
    assert found == Difference(0.375, student_quantile(1) * 0.125, (1, 2))


def test_five_pairs_by_hand():
    # d = -2, -1, 0, 1, 12: mean 2; squares 16 + 9 + 4 + 1 + 100 = 130, variance 32.5, / 5 = 6.5.
    values = {seed: d + 0.5 for seed, d in enumerate((-2, -1, 0, 1, 12))}
    found = paired_difference(values, dict.fromkeys(range(5), 0.5))
    assert found == Difference(2.0, student_quantile(4) * math.sqrt(6.5), (0, 1, 2, 3, 4))


def test_what_a_seed_does_to_both_is_not_in_the_difference():
    # The seeds are far apart, the differences are all 1/8: unpaired, the interval would be wide.
    baseline = {1: 0.0, 2: 64.0, 3: -1024.0}
    values = {seed: value + 0.125 for seed, value in baseline.items()}
    assert paired_difference(values, baseline) == Difference(0.125, 0.0, (1, 2, 3))


def test_seeds_that_only_one_of_them_has_do_not_count():
    found = paired_difference({1: 0.5, 3: 9.0, 2: 0.75}, {2: 0.25, 4: 7.0, 1: 0.25})
    assert found == paired_difference({1: 0.5, 2: 0.75}, {1: 0.25, 2: 0.25})


def test_one_pair_has_no_interval_and_none_has_no_difference():
    assert paired_difference({1: 0.75}, {1: 0.5, 2: 0.5}) == Difference(0.25, None, (1,))
    assert paired_difference({1: 0.75}, {2: 0.5}) is None
