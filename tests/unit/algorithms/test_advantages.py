"""Advantages: golden numbers, and signs that can be trusted."""

import pytest
import torch

from megatron_stare.algorithms.advantages import ADVANTAGES, group_advantages
from megatron_stare.algorithms.table import LINKS
from tests.unit.algorithms.golden import assert_golden, method_example, tensor

every_kind = pytest.mark.parametrize("kind", ADVANTAGES)


def one_group(rewards, kind: str, dtype=torch.float64) -> torch.Tensor:
    values = torch.as_tensor(rewards, dtype=dtype)
    return group_advantages(values, torch.zeros(len(values), dtype=torch.int64), kind)


def test_each_kind_is_a_link():
    assert set(ADVANTAGES) <= LINKS.keys()


@pytest.mark.parametrize(
    ("kind", "name"), [("grpo", "GRPO/advantage"), ("dr_grpo", "Dr.GRPO/advantage")]
)
def test_golden_groups_of_several_kinds(kind, name):
    inputs, expected = method_example(name)
    actual = group_advantages(tensor(inputs["rewards"]), torch.tensor(inputs["group"]), kind)
    assert_golden(actual, expected["adv"])


def test_golden_rloo():
    inputs, expected = method_example("RLOO")
    assert_golden(one_group(inputs["rewards"], "rloo"), expected["adv"])


def test_rloo_is_the_reward_minus_the_mean_of_the_others():
    rewards = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    others = torch.stack([(rewards.sum() - reward) / 5 for reward in rewards])
    torch.testing.assert_close(one_group(rewards, "rloo"), rewards - others)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "rewards",
    [
        [0.0] * 4,
        [1.0] * 8,
        [0.3] * 7,
        [1e6 + 0.1] * 3,
        [0.1 + 0.2, 0.3, 0.3],
        [1.0 + 0.2 - 1.2, 0.0, 0.0, 0.0],
    ],
)
def test_rewards_equal_up_to_rounding_have_advantage_exactly_zero(rewards, kind, dtype):
    assert one_group(rewards, kind, dtype).tolist() == [0.0] * len(rewards)


@every_kind
def test_float32_sums_in_different_orders_are_equal_rewards(kind):
    terms = torch.tensor([0.1, 0.7, -0.3])
    rewards = [(terms[0] + terms[1]) + terms[2], (terms[2] + terms[0]) + terms[1]]
    assert one_group(torch.stack(rewards), kind, torch.float32).tolist() == [0.0, 0.0]


@every_kind
def test_the_middle_reward_of_a_mixed_group_takes_no_sign_from_rounding(kind):
    high, low, middle = one_group([1.0, 0.4, 0.7], kind).tolist()
    assert (high > 0, low < 0, middle) == (True, True, 0.0)


@every_kind
def test_small_differences_that_are_no_rounding_keep_their_sign(kind):
    assert one_group([0.5, 0.5001], kind, torch.float32).sign().tolist() == [-1.0, 1.0]


@every_kind
def test_a_group_of_one_keeps_its_reward(kind):
    ids = torch.tensor([5, 6, 6])
    single = group_advantages(tensor([0.7, 1.0, 1.0]), ids, kind)
    torch.testing.assert_close(single, tensor([0.7, 0.0, 0.0]), rtol=1e-5, atol=0)


@every_kind
def test_groups_are_independent_whatever_their_ids_and_order(kind):
    generator = torch.Generator().manual_seed(1)
    rewards = torch.rand(12, dtype=torch.float64, generator=generator)
    ids = torch.tensor([7, -3, 2**40]).repeat(4)
    expected = torch.empty_like(rewards)
    for group_id in ids.unique():
        expected[ids == group_id] = one_group(rewards[ids == group_id], kind)
    order = torch.randperm(12, generator=generator)
    torch.testing.assert_close(group_advantages(rewards[order], ids[order], kind), expected[order])


@every_kind
def test_advantages_of_a_group_sum_to_zero_and_keep_the_dtype(kind):
    advantages = one_group([1.0, 0.0, 0.25, 0.5], kind, torch.float32)
    assert advantages.dtype == torch.float32
    assert abs(advantages.sum().item()) < 1e-6


def test_grpo_does_not_depend_on_the_scale_of_rewards():
    rewards = tensor([1.0, 0.0, 0.25, 0.5])
    torch.testing.assert_close(
        one_group(rewards, "grpo"), one_group(100 * rewards - 3, "grpo"), rtol=1e-5, atol=1e-5
    )


@every_kind
def test_an_empty_batch_has_no_advantages(kind):
    assert one_group([], kind).shape == (0,)
