"""From samples to rewards: verdict, format, overlong penalty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from megatron_stare.config.algorithm import RewardConfig
from megatron_stare.errors import UserError
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.types import Prompt, Sample

VERIFIERS = "tests.unit.rewards.verifiers"


def make_samples(pairs: Sequence[tuple[str, str]], *, num_tokens: int = 3) -> list[Sample]:
    return [
        Sample(
            prompt=Prompt(f"0-{index}", f"p.jsonl:{index}", "?", (1,), answer),
            index=0,
            text=response,
            token_ids=(1,) * num_tokens,
            logprobs=(0.0,) * num_tokens,
            loss_mask=(True,) * num_tokens,
            finish_reason="stop",
            weight_versions=(0,) * num_tokens,
            seconds=0.0,
        )
        for index, (response, answer) in enumerate(pairs)
    ]


@pytest.fixture(scope="module")
def shaped() -> Iterator[Scorer]:
    """Exact match, +0.5 for a digits-only line, up to -1 over the last 4 of 10 tokens."""
    config = RewardConfig(
        kind="exact",
        format_pattern=r"\d+|halt",
        format_reward=0.5,
        overlong_buffer_tokens=4,
        overlong_factor=1.0,
        workers=1,
    )
    with Scorer(config, max_response_tokens=10) as scorer:
        yield scorer


def test_value_is_verdict_plus_format_and_correct_is_the_verdict(shaped: Scorer):
    pairs = [("7", "7"), ("8", "7"), ("seven", "seven"), ("seven", "7")]
    rewards = shaped.score(make_samples(pairs))
    assert [reward.value for reward in rewards] == [1.5, 0.5, 1.0, 0.0]
    assert [reward.correct for reward in rewards] == [1.0, 0.0, 1.0, 0.0]
    assert all(reward.failure is None and reward.seconds > 0 for reward in rewards)


@pytest.mark.parametrize(("num_tokens", "penalty"), [(6, 0.0), (7, -0.25), (8, -0.5), (10, -1.0)])
def test_overlong_responses_lose_value_but_not_their_verdict(
    shaped: Scorer, num_tokens: int, penalty: float
):
    (reward,) = shaped.score(make_samples([("yes", "yes")], num_tokens=num_tokens))
    assert reward.value == pytest.approx(1.0 + penalty)
    assert reward.correct == 1.0


def test_no_samples_give_no_rewards(shaped: Scorer):
    assert shaped.score([]) == []


def test_a_failure_has_no_value_whatever_its_format_and_length():
    config = RewardConfig(
        kind=f"{VERIFIERS}:act", format_pattern=".*", format_reward=0.5, overlong_buffer_tokens=4
    )
    with Scorer(config, max_response_tokens=10) as scorer:
        (reward,) = scorer.score(make_samples([("raise", "")], num_tokens=10))
    assert (reward.value, reward.correct) == (0.0, 0.0)
    assert reward.failure == "ValueError: no such thing"


def test_the_verdict_of_a_function_of_your_own_is_the_value_and_correct_is_within_0_and_1():
    config = RewardConfig(kind=f"{VERIFIERS}:number")
    with Scorer(config, max_response_tokens=10) as scorer:
        rewards = scorer.score(make_samples([("0.25", ""), ("-1", ""), ("3", "")]))
    assert [reward.value for reward in rewards] == [0.25, -1.0, 3.0]
    assert [reward.correct for reward in rewards] == [0.25, 0.0, 1.0]


def test_math_judges_equivalence():
    pairs = [(r"\boxed{\frac{1}{2}}", "0.5"), (r"\boxed{\frac{1}{3}}", "0.5"), ("so 3", "3.0")]
    with Scorer(RewardConfig(kind="math", workers=1), max_response_tokens=10) as scorer:
        rewards = scorer.score(make_samples(pairs))
    assert [reward.correct for reward in rewards] == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "no_such_package:f"}, "no_such_package:f.*No module named 'no_such_package'"),
        ({"kind": f"{VERIFIERS}:nothing"}, f"{VERIFIERS}:nothing.*no attribute 'nothing'"),
    ],
)
def test_a_reward_that_cannot_be_used_is_one_clear_error_at_the_start(settings, message: str):
    with pytest.raises(UserError, match=message):
        Scorer(RewardConfig(**settings), max_response_tokens=10)
