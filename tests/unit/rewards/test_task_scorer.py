"""A task's own scorer in the verifier pool: partial credit is reward, enough of it is right."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megatron_stare.config.algorithm import RewardConfig
from megatron_stare.config.data import DataConfig, SourceConfig
from megatron_stare.data.tasks import generate_problems
from megatron_stare.rewards.scorer import Scorer
from tests.gym import needs_gym
from tests.unit.rewards.test_scorer import make_samples

pytestmark = [needs_gym, pytest.mark.slow]

WORDS = {"task": "spell_backward", "size": 1, "params": {"min_word_len": 4, "max_word_len": 4}}
NUMBERS = {"task": "countdown", "size": 1, "params": {"max_numbers": 4}}


def test_partial_credit_is_the_reward_and_the_threshold_makes_it_right():
    sources = {"strict": WORDS, "half": WORDS | {"right_at": 0.5}, "numbers": NUMBERS}
    config = DataConfig.model_validate({"sources": sources})
    made = {
        name: generate_problems(SourceConfig.model_validate(sources[name]), name).rows[0].fields
        for name in ("strict", "numbers")
    }
    made["half"] = made["strict"]
    word, numbers = made["strict"]["answer"], made["numbers"]["answer"]
    half = word[:2] + "__"
    said = [
        ("strict", word, 1.0, 1.0),
        ("strict", f"I say {half}, no: <answer>{word}</answer>.", 1.0, 1.0),
        ("strict", f"<think><answer>{word}</answer></think>\\boxed{{{half}}}", 0.5, 0.0),
        ("half", half, 0.5, 1.0),
        ("half", "____", 0.0, 0.0),
        ("strict", "", 0.0, 0.0),
        ("numbers", numbers, 1.0, 1.0),
        ("numbers", "1 + 1", 0.05, 0.0),
    ]
    samples = make_samples([(text, made[source]["entry"]) for source, text, *_ in said])
    samples = [
        replace(sample, prompt=replace(sample.prompt, source=source))
        for sample, (source, *_) in zip(samples, said, strict=True)
    ]
    settings = RewardConfig(kind="exact", workers=1, isolation="process")
    with Scorer(settings, {"data": config}, max_response_tokens=10) as scorer:
        rewards = scorer.score(samples)
    assert [reward.failure for reward in rewards] == [None] * len(said)
    assert [(r.value, r.correct) for r in rewards] == [(v, c) for *_, v, c in said]
