"""Effective ranks from inner products, against singular values."""

import pytest
import torch

from megatron_stare.ops.effective_rank import effective_rank, rank_dynamics

EXAMPLE = torch.tensor(
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [2, 0, 1]],
    dtype=torch.float64,
)
"""VERL/ER_ERV_ERA."""


def by_singular_values(states):
    values = torch.linalg.svdvals(states - states.mean(0))
    shares = values / (values.sum() + 1e-8)
    return (-(shares * (shares + 1e-8).log()).sum()).exp()


def test_golden_rank_and_its_differences():
    found = rank_dynamics(EXAMPLE @ EXAMPLE.T, stride=2)
    assert found.tolist() == pytest.approx([2.842365, 0.624427, -0.377098], abs=1e-6)
    prefixes = [effective_rank(EXAMPLE[:n] @ EXAMPLE[:n].T).item() for n in (3, 5, 7)]
    assert prefixes == pytest.approx([2.0, 2.812976, 2.842365], abs=1e-6)


@pytest.mark.parametrize(("tokens", "hidden"), [(2, 8), (30, 8), (8, 64), (50, 50)])
def test_it_is_that_of_the_singular_values(tokens, hidden):
    generator = torch.Generator().manual_seed(tokens)
    states = torch.randn(tokens, hidden, generator=generator, dtype=torch.float64) + 3
    found = effective_rank(states @ states.T)
    torch.testing.assert_close(found, by_singular_values(states), rtol=1e-6, atol=0)


def test_products_of_parts_of_the_hidden_size_add_up():
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(40, 24, generator=generator, dtype=torch.float64)
    products = sum(part @ part.T for part in states.split(7, dim=1))
    whole = rank_dynamics(states @ states.T, stride=5)
    torch.testing.assert_close(rank_dynamics(products, stride=5), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tokens", [0, 1])
def test_of_less_than_two_states_it_is_0(tokens):
    states = torch.ones(tokens, 4, dtype=torch.float64)
    assert rank_dynamics(states @ states.T, stride=2).tolist() == [0, 0, 0]


def test_a_short_response_has_a_rank_and_no_differences():
    states = torch.eye(4, dtype=torch.float64)
    rank, first, second = rank_dynamics(states @ states.T, stride=2).tolist()
    assert rank == pytest.approx(3.0, abs=1e-6)
    assert (first, second) == (0, 0)


def test_equal_states_take_no_direction():
    assert effective_rank(torch.full((5, 5), 7.0, dtype=torch.float64)).item() == 1.0
