"""Aggregation: the mean over the global batch, in three definitions."""

from typing import get_args

import pytest
import torch
from pydantic import ValidationError

from megatron_stare.algorithms.aggregation import (
    AGGREGATIONS,
    Aggregation,
    aggregation_coefficients,
)
from megatron_stare.algorithms.method import Method
from tests.unit.algorithms.golden import method_example, tensor

every_kind = pytest.mark.parametrize("kind", AGGREGATIONS)


def test_the_config_offers_what_the_table_holds():
    assert set(get_args(Aggregation)) == set(AGGREGATIONS)


@every_kind
def test_golden_means(kind):
    inputs, expected = method_example("GRPO/clipped_loss")
    mask = tensor(inputs["mask"])
    coefficients = aggregation_coefficients(kind, mask.sum(dim=1).long())
    loss = (coefficients[:, None] * tensor(expected["token_loss"]) * mask).sum()
    assert loss.item() == pytest.approx(expected[kind], rel=1e-6)


def test_each_kind_on_a_ragged_batch():
    counts = torch.tensor([1, 3, 4])
    expected = {
        "token-mean": [1 / 8, 1 / 8, 1 / 8],
        "seq-mean-token-mean": [1 / 3, 1 / 9, 1 / 12],
        "seq-mean-token-sum": [1 / 3, 1 / 3, 1 / 3],
    }
    for kind, values in expected.items():
        assert aggregation_coefficients(kind, counts).tolist() == pytest.approx(values)


def test_golden_sums_over_the_longest_response():
    """TRL's; verl does not divide by the 2 samples."""
    losses = torch.tensor([[-1.2, -0.951229, -0.67032, -1.2], [1.349859, 0.8, 3, 0]]).double()
    counts = torch.tensor([4, 3])
    coefficients = aggregation_coefficients("seq-mean-token-sum", counts, sum_over=8)
    loss = (coefficients[:, None] * losses).sum().item()
    assert loss == pytest.approx(0.070519, abs=1e-6)
    assert 2 * loss == pytest.approx(0.141039, abs=1e-6)


def test_other_means_have_no_length_of_their_own():
    with pytest.raises(ValidationError, match="sum_over=8 with aggregation='token-mean': expected"):
        Method(sum_over=8)


@every_kind
def test_samples_without_loss_tokens_change_nothing(kind):
    padded = aggregation_coefficients(kind, torch.tensor([0, 2, 0, 5]))
    assert torch.equal(padded[[1, 3]], aggregation_coefficients(kind, torch.tensor([2, 5])))
    assert padded[[0, 2]].tolist() == [0.0, 0.0]


@every_kind
def test_a_batch_without_loss_tokens_has_no_loss(kind):
    assert aggregation_coefficients(kind, torch.tensor([0, 0])).tolist() == [0.0, 0.0]


def test_large_batches_lose_no_precision():
    counts = torch.full((512,), 32_767)
    coefficients = aggregation_coefficients("token-mean", counts)
    assert coefficients.dtype == torch.float32
    assert (coefficients.double() * counts).sum().item() == pytest.approx(1.0, rel=1e-7)
