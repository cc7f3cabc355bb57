"""Samples of a prompt, one after another as long as they pay."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import pytest

from megatron_stare.algorithms.drawing import Budget, Drawing
from megatron_stare.algorithms.links.v05 import V05
from megatron_stare.algorithms.prompt_history import History, prompt_key
from megatron_stare.config.rollout import RolloutConfig
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.rollout.sampler import Cancelled, Sampler
from megatron_stare.types import Group, Reward
from tests.models import VOCAB_SIZE
from tests.unit.rollout.problems import (
    TOKENIZER,
    make_group,
    make_prompt,
    make_prompt_set,
    write_jsonl,
)


class Forgetful(ReplayEngine):
    """Never gives a further sample of prompt "lost"; `asked` has the sizes of its calls."""

    asked: list[int]
    cancels: Sampler | None = None

    def generate(self, requests, sampling, *, seed) -> Generator:
        self.asked.append(len(requests))
        if self.cancels is not None and len(self.asked) > 1:
            self.cancels.cancel()
        answered = [r for r in requests if r.prompt.text != "lost" or r.index < 2]
        yield from super().generate(answered, sampling, seed=seed)


class CountingScorer:
    """ "yes" is right; `judged` counts what it was given."""

    judged = 0

    def score(self, samples) -> list[Reward]:
        self.judged += len(samples)
        values = [float(sample.text == "yes") for sample in samples]
        return [Reward(value, value, None, 0.0) for value in values]


def opened(folder, texts):
    rows = [{"prompt": p, "response": r} for p in texts for r in ("yes", "no") * 4]
    path = write_jsonl(folder / "recorded.jsonl", rows)
    engine = Forgetful(path, TOKENIZER, vocab_size=VOCAB_SIZE)
    engine.asked = []
    config = RolloutConfig(
        engine="replay",
        replay_path=path,
        samples_per_prompt=6,
        max_response_tokens=10,
        prompts_per_step=len(texts),
    )
    scorer = CountingScorer()
    sampler = Sampler(make_prompt_set(folder, texts), engine, scorer, config, seed=1)
    return sampler, engine, scorer


WANTED = {"few": 2, "more": 4, "lost": 6, "all": 99}


def until_wanted(group: Group) -> bool:
    return len(group.samples) < WANTED[group.prompt.text]


DRAWING = Drawing(budget=Budget(2, until_wanted))


def test_each_group_grows_until_the_budget_is_content_or_the_run_s_samples_are_there(tmp_path):
    sampler, engine, scorer = opened(tmp_path, ["few", "more", "lost", "all"])
    rollout = sampler.collect(1, drawing=DRAWING)
    sizes = {group.prompt.text: len(group.samples) for group in rollout.groups}
    assert sizes == {"few": 2, "more": 4, "lost": 2, "all": 6}
    assert engine.asked == [8, 3, 2, 1, 1]
    assert scorer.judged == 14, "no sample twice"
    assert rollout.metrics["rollout/completed"] == 4
    assert rollout.metrics["rollout/rounds"] == 1
    for group in rollout.groups:
        assert [sample.index for sample in group.samples] == [*range(len(group.samples))]
        assert [reward.correct for reward in group.rewards] == [
            float(sample.text == "yes") for sample in group.samples
        ]


def test_the_next_step_has_its_own_budget(tmp_path):
    sampler, engine, _ = opened(tmp_path, ["all"])
    assert len(sampler.collect(1, drawing=DRAWING).groups[0].samples) == 6
    engine.update_weights([], version=1)
    assert len(sampler.collect(2).groups[0].samples) == 6
    assert engine.asked == [2, 1, 1, 1, 1, 6]


def test_it_is_cancelled_between_two_samples(tmp_path):
    sampler, engine, _ = opened(tmp_path, ["all"])
    engine.cancels = sampler
    with pytest.raises(Cancelled):
        sampler.collect(1, drawing=DRAWING)


PROMPT = make_prompt("p")


def history(prior: float) -> History:
    """One that expects so much of the prompt: `high` and `low` stand for themselves."""
    return History({prompt_key(PROMPT.token_ids): prior}, [0.0] * 5, {})


def draws(verdicts: list[float], prior: float | None, **settings) -> bool:
    budget = (
        V05(first=4, **settings)
        .drawing(History.empty() if prior is None else history(prior))
        .budget
    )
    assert budget is not None
    return budget.goes_on(make_group(PROMPT, verdicts))


def test_an_unknown_prompt_has_samples_until_one_lowers_the_risk_by_less_than_it_costs():
    """1 / k - 1 / (k + 1) > 1 / 256, up to 15."""
    sizes = [k for k in range(4, 30) if draws([1.0] * k, None)]
    assert sizes == [*range(4, 16)]


def test_a_prompt_that_does_as_expected_needs_no_more():
    assert not draws([1.0, 0.0, 1.0, 0.0], 0.5)
    assert not draws([1.0, 1.0, 1.0, 0.0], 0.6)


def test_one_that_surprises_does():
    """z = (0 - 1) / 0.5 = -2, D = 4 - 1/4; D / (1 + k D) falls by more than 1 / 256."""
    d = 3.75
    fall = d / (1 + 4 * d) - d / (1 + 5 * d)
    assert draws([0.0] * 4, 1.0, cost=0.99 * fall)
    assert not draws([0.0] * 4, 1.0, cost=1.01 * fall)


def test_rewards_of_another_range_are_in_units_of_its_half():
    group = make_group(PROMPT, [0.0] * 4)
    lower = replace(group, rewards=(Reward(-1.0, 0.0, None, 0.0),) * 4)
    budget = V05(first=4, low=-1.0).drawing(history(1.0)).budget
    assert budget is not None
    assert budget.goes_on(lower) == draws([0.0] * 4, 1.0)


def test_without_a_first_there_is_no_budget():
    assert V05().drawing(History.empty()) == Drawing()
