"""Groups that fall back to the demonstration of their prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from megatron_stare.algorithms.filters import FallBack
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.data import DataConfig
from megatron_stare.config.rollout import RolloutConfig
from megatron_stare.data.prompts import PromptSet
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.rollout.groups import GrowingGroup
from megatron_stare.rollout.plain import group_from_plain, group_to_plain
from megatron_stare.rollout.sampler import Rollout, Sampler
from megatron_stare.types import RolloutBatch
from tests.models import EOS_ID, VOCAB_SIZE
from tests.unit.rollout.problems import TOKENIZER, write_jsonl


def rollout_of(folder, scorer) -> Rollout:
    """A solved problem, and one that is not, whose demonstration is `1 and 1 is 2`."""
    problems = [
        {"prompt": text, "answer": "yes", "worked": "1 and 1 is 2"} for text in ("solved", "failed")
    ]
    answers = {"solved": ("yes", "no"), "failed": ("no", "no")}
    recorded = [{"prompt": p, "response": r} for p, texts in answers.items() for r in texts]
    data = DataConfig(
        path=write_jsonl(folder / "prompts.jsonl", problems),
        shuffle=False,
        demonstration_field="worked",
    )
    replay = write_jsonl(folder / "recorded.jsonl", recorded)
    config = RolloutConfig(
        engine="replay",
        replay_path=replay,
        samples_per_prompt=2,
        max_response_tokens=10,
        prompts_per_step=2,
    )
    sampler = Sampler(
        PromptSet(data, TOKENIZER, seed=0),
        ReplayEngine(replay, TOKENIZER, vocab_size=VOCAB_SIZE),
        *(scorer, config),
        seed=1,
        filters={"fall_back": FallBack()},
    )
    return sampler.collect(1)


def test_what_the_policy_did_is_what_metrics_are_of(tmp_path, scorer):
    rollout = rollout_of(tmp_path, scorer)
    solved, failed = rollout.groups
    assert [len(solved.samples), len(failed.samples)] == [2, 1]
    assert failed.samples[0].token_ids == (*TOKENIZER.encode("1 and 1 is 2"), EOS_ID)
    assert rollout.metrics["reward/accuracy"] == 0.25
    assert rollout.metrics["reward/solve_none"] == 0.5
    assert rollout.metrics["rollout/demonstrations"] == 1


def test_a_batch_knows_its_demonstrations_and_judges_the_rest(tmp_path, scorer):
    batch = RolloutBatch.from_groups(rollout_of(tmp_path, scorer).groups)
    assert batch.demonstrated is not None
    assert batch.demonstrated.tolist() == [False, False, True]
    demonstrated = batch.demonstrated[batch.sample_ids]
    assert batch.loss_mask.all()
    assert torch.equal(batch.judged.loss_mask, ~demonstrated)
    assert batch.judged.num_loss_tokens[2] == 0
    without = replace(batch, demonstrated=None)
    assert without.judged is without


def test_it_is_still_one_after_a_checkpoint(tmp_path, scorer):
    _, failed = rollout_of(tmp_path, scorer).groups
    again = group_from_plain(group_to_plain(failed))
    assert not isinstance(again, GrowingGroup)
    assert again.samples[0].origin == "demonstration"
    assert again.prompt == failed.prompt


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({}, "algorithm.demonstration_nll has nothing to fall back to with data.demonstration_f"),
        (
            {"rollout": {"dynamic_sampling": False}, "data": {"demonstration_field": "worked"}},
            "algorithm.demonstration_nll with rollout.dynamic_sampling=false",
        ),
    ],
)
def test_what_it_takes_is_asked_of_the_config(sections, message):
    tree = {"model": {"path": "model"}, "algorithm": {"method": "hpt"}, **sections}
    tree["data"] = {"path": "prompts.jsonl", **sections.get("data", {})}
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate(tree)
