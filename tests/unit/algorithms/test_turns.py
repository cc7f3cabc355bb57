"""Methods that give credit to turns, on batches that are made to break them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from megatron_stare.algorithms.chain import first_credit
from megatron_stare.algorithms.config import AlgorithmConfig
from megatron_stare.algorithms.lists import batch_of
from megatron_stare.algorithms.needs import (
    FAILED_CALLS,
    OLD,
    PROFILES,
    ROLES,
    TURN_REWARDS,
    TURNS,
    facts_of_turns,
)
from megatron_stare.algorithms.offline import run_links, run_loss
from megatron_stare.algorithms.step import Step
from megatron_stare.algorithms.table import LINKS
from megatron_stare.algorithms.turn_by_turn import TurnByTurn
from megatron_stare.ops.partials import TokenScores
from tests.contract import ACTS

OF_TURNS = {TURNS, TURN_REWARDS, ROLES, PROFILES, FAILED_CALLS}
READERS = [n for n, kind in LINKS.items() if kind(**ACTS.get(n, {})).needs & OF_TURNS]
MAKERS = [name for name in READERS if LINKS[name].makes_advantages]
every_maker = pytest.mark.parametrize("name", MAKERS)


def sample(reward: float, turns: Sequence[int], group: Any = 0, **more: Any) -> dict[str, Any]:
    """One that says all that can be said of its turns."""
    count = len({*turns})
    profile = {"correct": 1, "speedup": 1 + reward, "coverage": 0.5}
    return {
        "reward": reward,
        "group": group,
        "logprobs": [-1.0] * len(turns),
        "turns": list(turns),
        "turn_rewards": [reward / 2] * count,
        "anchors": ["here"] * count,
        "roles": ["one"] * count,
        "failed_calls": [0] * count,
        "profiles": [profile] * count,
    } | more


def advantages(name: str, samples: Sequence[dict[str, Any]]) -> list[list[float]]:
    return run_links([name], samples)[0]["advantages"]


@every_maker
def test_samples_that_are_all_alike_are_worth_the_same_and_nothing_if_nothing_is_earned(name):
    first, *others = advantages(name, [sample(1.0, [0, 0, 1])] * 4)
    assert all(other == first for other in others)
    assert advantages(name, [sample(0.0, [0, 0, 1])] * 4) == [[0.0] * 3] * 4


@every_maker
@pytest.mark.parametrize("reward", [0.0, 1.0, -1e18, 1e18])
def test_a_group_of_one_has_finite_advantages(name, reward):
    (found,) = advantages(name, [sample(reward, [0, 1, 1])])
    assert all(map(math.isfinite, found))


@every_maker
def test_episodes_that_were_cut_after_fewer_turns_are_compared_where_they_have_come(name):
    cut = sample(0.0, [0], truncated=True)
    samples = [sample(1.0, [0, 1, 2]), cut, sample(0.0, [0, 1])]
    found = advantages(name, samples)
    assert [len(row) for row in found] == [3, 1, 2]
    assert all(math.isfinite(value) for row in found for value in row)
    assert found[0][0] > found[1][0]


@every_maker
def test_a_sample_of_which_nothing_is_learned_still_counts_in_its_group(name):
    """As one that ended void; TRLOO alone leaves its turns out."""
    void = sample(0.0, [0, 1], mask=[0, 0])
    found = advantages(name, [sample(1.0, [0, 1]), void, sample(0.5, [0, 1])])
    assert found[1] == [0.0, 0.0]
    assert found[0][0] > found[2][0]


@every_maker
def test_what_is_put_in_before_after_and_between_turns_changes_nothing(name):
    plain = [sample(1.0, [0, 1]), sample(0.0, [0, 1, 1]), sample(0.5, [0])]
    among = [
        sample(1.0, [0, 0, 0, 1, 1], mask=[0, 1, 0, 1, 0]),
        sample(0.0, [0, 0, 1, 1, 1], mask=[1, 0, 1, 1, 0]),
        sample(0.5, [0, 0], mask=[0, 1]),
    ]
    expected = advantages(name, plain)
    found = advantages(name, among)
    for row, one, values in zip(found, among, expected, strict=True):
        kept = [value for value, counts in zip(row, one["mask"], strict=True) if counts]
        assert kept == pytest.approx(values, abs=1e-12)


@every_maker
def test_groups_are_known_by_their_name_wherever_their_samples_stand(name):
    a = [sample(1.0, [0, 1], "a"), sample(0.0, [0, 0], "a")]
    b = [sample(0.2, [0, 1], "b"), sample(0.9, [0, 1, 2], "b")]
    whole = advantages(name, [*a, *b])
    mixed = advantages(name, [b[1], a[0], b[0], a[1]])
    if name == "srgpo":  # Its sets are drawn; of fewer turns than one holds there is one.
        assert len({turn for row in whole for turn in row}) > 1
    for found, expected in zip(mixed, [whole[i] for i in (3, 0, 2, 1)], strict=True):
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", READERS)
def test_an_unknown_setting_is_refused_in_one_sentence(name):
    with pytest.raises(ValidationError) as raised:
        AlgorithmConfig.model_validate({"links": ["grpo", {name: {"gama": 1}}]})
    (error,) = raised.value.errors()
    assert "gama" in str(error["loc"]) + error["msg"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"turn_rewards": [1]}, "turn_rewards: 1 values for the 2 turns of a sample"),
        ({"failed_calls": []}, "failed_calls: 0 values for the 2 turns of a sample"),
        ({"profiles": [{"correct": 1}] * 2}, r"profiles: a turn has \['correct'\], expected \["),
    ],
)
def test_what_is_said_of_other_turns_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        run_links("grpo", [sample(1.0, [0, 1], **more)])


def test_a_link_that_reads_turns_names_what_the_samples_do_not_say():
    samples = [{"reward": 1, "group": 0, "logprobs": [-1.0], "turns": [0]}]
    with pytest.raises(KeyError, match=r"infopo reads rewards of turns: .* turn_rewards"):
        run_links("infopo", samples)
    with pytest.raises(KeyError, match=r"torl reads failed calls of turns: .* failed_calls"):
        run_links("torl", samples)


TOLD = [[-1.0] * 2, [-0.5, -0.5], [-1.0, -1.0]]
"""Log-probs of a sample's three turns before the step."""
AFTER = {2: [[-1.0, -1.0], [-0.5, -0.5], [-0.9, -0.7]], 1: [[-1.0, -1.0], [-0.45, -0.75], [9, 9]]}
"""And after the update of a turn."""


def test_golden_updates_turn_by_turn():
    """M is 1, 1.2 and 1.085805; the first update is of the last turn, which one sample has."""
    old = [value for turn in TOLD for value in turn]
    samples = [
        {"group": 0, "logprobs": old, "turns": [0, 0, 1, 1, 2, 2]},
        {"group": 0, "logprobs": old[:4], "turns": [0, 0, 1, 1]},
    ]
    step = step_of(samples)
    credit = first_credit(AlgorithmConfig.model_validate({"method": "seeupo"}), step)
    credit = credit.with_advantages(torch.ones(10))
    done, asked = [], []

    def rescore(which: Sequence[int]) -> TokenScores:
        asked.append(list(which))
        now = torch.tensor([value for turn in AFTER[3 - len(asked)] for value in turn])
        return TokenScores(torch.cat([now, now[:4]]), *[torch.zeros(10)] * 3)

    for update in TurnByTurn().updates(step, credit, rescore):
        done.append(update)
    assert [update.samples for update in done] == [[0], [0, 1], [0, 1]]
    assert asked == [[0, 1], [0, 1]]
    counted = [update.credit.counted.nonzero()[:, 0].tolist() for update in done]
    assert counted == [[4, 5], [2, 3, 8, 9], [0, 1, 6, 7]]
    used = [update.credit.advantages[where] for update, where in zip(done, counted, strict=True)]
    first, second = 1.2, 1.2 * math.exp(-0.1)
    expected = [[1, 1], [first, first, 1, 1], [second, second, *[math.exp(-0.1)] * 2]]
    assert [row.tolist() for row in used] == [pytest.approx(row) for row in expected]
    # The ratios of an update are to the policy that it starts from.
    starts = [done[0].old, done[1].old, done[2].old]
    assert [each.logprobs[4].item() for each in starts] == [-1.0, pytest.approx(-0.9), 9]


def step_of(samples: Sequence[dict[str, Any]]) -> Step:
    batch = batch_of(samples)
    index = torch.arange(len(batch.loss_mask))
    everyone = [list(range(len(batch)))]
    step = Step(1, 0.5, batch, index, batch.sample_ids, batch.loss_mask, everyone)
    logprobs = torch.tensor([value for one in samples for value in one["logprobs"]])
    step.facts[OLD] = TokenScores(logprobs, *[torch.zeros(len(index))] * 3)
    step.facts.update(facts_of_turns(batch))
    return step


def test_the_loss_of_a_turn_s_clip_is_the_same_wherever_tools_have_spoken():
    plain = [sample(1.0, [0, 1, 1]) | {"current_logprobs": [-0.5, -0.9, -1.4]}]
    among = [
        sample(1.0, [0, 0, 1, 1], mask=[1, 0, 1, 1]) | {"current_logprobs": [-0.5, 9, -0.9, -1.4]}
    ]
    given, _ = run_links("st_ppo", plain)
    found = run_loss("st_ppo", plain, given)
    other = run_loss("st_ppo", among, run_links("st_ppo", among)[0])
    assert other.loss == pytest.approx(found.loss, rel=1e-9)
