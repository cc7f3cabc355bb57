"""Samples of earlier steps in groups that have nothing to compare."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from megatron_stare.algorithms.filters import Mixed
from megatron_stare.algorithms.replay import Memory, Replay
from megatron_stare.config.commands import TrainConfig
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.errors import UserError
from megatron_stare.rollout.filling import Filling
from megatron_stare.rollout.plain import group_from_plain, group_to_plain
from megatron_stare.rollout.sampler import Rollout, Sampler
from megatron_stare.types import Group, RolloutBatch, Sample
from tests.models import VOCAB_SIZE
from tests.unit.rollout.problems import (
    TOKENIZER,
    make_group,
    make_prompt,
    make_prompt_set,
    write_jsonl,
)
from tests.unit.rollout.test_sampler import make_config

RECORDED = {"a": ["yes", "no", "no", "no", "no", "no"], "b": ["no", "yes", "yes", "yes"] * 2}
"""What comes of two samples a step: in the first both groups are mixed, and in no other."""
LOGPROBS = {"yes": -0.25, "no": -2.0}


def sampler_of(folder, scorer, filters=None) -> Sampler:
    rows = [
        {"prompt": p, "response": r, "logprobs": [LOGPROBS[r]] * (len(TOKENIZER.encode(r)) + 1)}
        for p, texts in RECORDED.items()
        for r in texts
    ]
    path = write_jsonl(folder / "recorded.jsonl", rows)
    return Sampler(
        make_prompt_set(folder, list(RECORDED)),
        ReplayEngine(path, TOKENIZER, vocab_size=VOCAB_SIZE),
        scorer,
        make_config(folder, prompts_per_step=2),
        seed=1,
        filters={"replay": Replay(count=1), "mixed": Mixed()} if filters is None else filters,
    )


def samples_of(rollout: Rollout) -> list[tuple[Sample, ...]]:
    """Without verdicts, which take another time each."""
    return [group.samples for group in rollout.groups]


def verdicts(group: Group) -> list[float]:
    return [reward.correct for reward in group.rewards]


def test_a_group_all_wrong_gains_a_right_sample_and_one_all_right_a_wrong_one(tmp_path, scorer):
    sampler = sampler_of(tmp_path, scorer)
    first, second = sampler.collect(1), sampler.collect(2)
    assert [verdicts(group) for group in first.groups] == [[1, 0], [0, 1]]
    assert [verdicts(group) for group in second.groups] == [[0, 0, 1], [1, 1, 0]]
    assert [s.origin for s in second.groups[0].samples] == ["policy", "policy", "replay"]
    assert [s.index for s in second.groups[0].samples] == [0, 1, 2]
    replayed, was = second.groups[0].samples[2], first.groups[0].samples[0]
    assert replace(replayed, origin="policy", prompt=was.prompt, index=0) == was
    assert replayed.prompt is second.groups[0].prompt
    assert [r.metrics["rollout/replayed"] for r in (first, second)] == [0, 2]
    assert second.metrics["reward/accuracy"] == 0.5, "what the policy of now did"
    assert second.metrics["rollout/completed"] == 2


def test_they_enter_the_batch_with_the_log_probs_that_they_were_sampled_with(tmp_path, scorer):
    sampler = sampler_of(tmp_path, scorer)
    sampler.collect(1)
    batch = RolloutBatch.from_groups(sampler.collect(2).groups)
    assert batch.group_ids.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.rewards.tolist() == [0, 0, 1, 1, 1, 0]
    assert batch.loss_mask.all()
    ends = batch.response_lengths.cumsum(0) - 1
    assert batch.rollout_logprobs[ends].tolist() == [-2, -2, -0.25, -0.25, -0.25, -2]


def test_what_is_remembered_goes_on_to_the_bit(tmp_path, scorer):
    through, saved = (sampler_of(tmp_path, scorer) for _ in range(2))
    for step in (1, 2):
        assert samples_of(through.collect(step)) == samples_of(saved.collect(step))
        file = io.BytesIO()
        state = saved.state_dict()
        torch.save(state, file)
        file.seek(0)
        saved = sampler_of(tmp_path, scorer)
        saved.load_state_dict(torch.load(file))
        assert saved.state_dict() == state
    assert samples_of(through.collect(3)) == samples_of(saved.collect(3))


def test_a_run_does_not_go_on_with_other_filters_that_remember(tmp_path, scorer):
    state = sampler_of(tmp_path, scorer).state_dict()
    other = sampler_of(tmp_path, scorer, {"mixed": Mixed()})
    with pytest.raises(UserError, match=r"filters=\[\]: the run has been trained with \[replay\]"):
        other.load_state_dict(state)
    del state["filters"]  # Of a run before there were any.
    other.load_state_dict(state)


def test_a_group_with_past_samples_is_the_same_after_a_checkpoint(tmp_path, scorer):
    sampler = sampler_of(tmp_path, scorer)
    sampler.collect(1)
    group = sampler.collect(2).groups[0]
    assert group_from_plain(group_to_plain(group)) == group


def test_statistics_are_of_what_the_policy_did_in_groups_of_a_step_before_too(tmp_path, scorer):
    """Of partial rollouts, whose whole groups may wait for the next batch."""
    sampler = sampler_of(tmp_path, scorer)
    sampler.collect(1)
    waiting = sampler.collect(2).groups[0]
    (own,) = Filling([waiting]).as_judged([waiting])
    assert verdicts(own) == [0, 0]
    replayed = Group(waiting.prompt, waiting.samples[2:], waiting.rewards[2:])
    assert Filling([replayed]).as_judged([replayed]) == [replayed], "nothing else is known"


def remembered(filter_: Replay, *groups: Group) -> dict[str, list[float]]:
    """Verdicts that are kept, by prompt."""
    memory = Memory({})
    for group in groups:
        memory = filter_.observe([group], memory)
    return {p: [past["reward"]["correct"] for past in kept] for p, kept in memory.of.items()}


def test_of_each_prompt_the_last_right_and_wrong_ones_are_kept():
    a = make_prompt("a")
    assert remembered(Replay(count=2), make_group(a, [1, 1, 1, 0.5])) == {"a": [1, 1]}
    kept = remembered(Replay(count=2), *[make_group(a, [1, 0])] * 5)
    assert kept == {"a": [1, 1, 0, 0]}


def test_prompts_judged_longest_ago_make_room():
    """A right sample is `yes` and its end, four tokens; a wrong one three."""
    a, b, c = (make_group(make_prompt(text), [1, 0]) for text in "abc")
    assert [*remembered(Replay(count=1, capacity=14), a, b)] == ["a", "b"]
    assert [*remembered(Replay(count=1, capacity=14), a, b, a, c)] == ["a", "c"]
    assert remembered(Replay(count=1, capacity=6), a) == {}


def test_problems_in_another_context_are_left_alone():
    group = make_group(replace(make_prompt("a"), appended="reflect"), [0, 0])
    memory = Replay(count=1).observe([make_group(make_prompt("a"), [1, 0])], Memory({}))
    assert Replay(count=1).observe([group], memory) == memory
    partly = make_group(make_prompt("a"), [0.5, 0.5])
    for unchanged in (make_group(make_prompt("b"), [0, 0]), partly):
        assert Replay(count=1).recall(unchanged, memory) == unchanged


def config_of(**sections) -> TrainConfig:
    replay = {"method": "grpo", "filters": [{"replay": {"count": 2}}, "mixed"]}
    tree = {"model": {"path": "model"}, "data": {"path": "prompts.jsonl"}, "algorithm": replay}
    return TrainConfig.model_validate({**tree, **sections})


def test_a_run_that_replays_corrects_what_is_older_than_its_weights():
    assert [*config_of().algorithm.links] == ["grpo", "tis"]
    others = {"method": "grpo", "filters": ["mixed"]}
    assert [*config_of(algorithm=others).algorithm.links] == ["grpo"]


def test_without_dynamic_sampling_nothing_would_be_replayed():
    with pytest.raises(ValidationError, match=r"algorithm\.replay with rollout\.dynamic_sampling"):
        config_of(rollout={"dynamic_sampling": False})
