"""Turns of a response: kept wherever samples are, and what is put in counts for nothing."""

import json
from dataclasses import replace
from itertools import compress

import pytest
import torch
from pydantic import ValidationError

from megatron_stare.algorithms.needs import facts_of_turns
from megatron_stare.algorithms.step import Step
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.evaluation import EvalSection
from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.errors import UserError
from megatron_stare.observe.metrics import find_metric
from megatron_stare.rollout.bank import Bank
from megatron_stare.rollout.dump import dump_samples
from megatron_stare.rollout.evaluate import evaluate
from megatron_stare.rollout.groups import GrowingGroup
from megatron_stare.rollout.plain import group_from_plain, group_to_plain
from megatron_stare.rollout.statistics import group_statistics, staleness_statistics
from megatron_stare.run.facts import check_turns
from megatron_stare.turns import Response, Turn
from megatron_stare.types import Group, Reward, RolloutBatch, Sample
from tests.models import VOCAB_SIZE
from tests.requests_of import requests_of
from tests.unit.rollout.problems import TOKENIZER, make_prompt, make_sample, write_jsonl

PROMPT = make_prompt("6 * 7 = ")
TURNS = (
    Turn(0, 4, "model", "call", "call", num_calls=1, reward=0.5, anchor="start", role="asker"),
    Turn(4, 7, "observation", "42.", num_ok=1, seconds=0.5),
    Turn(7, 12, "model", "is 42", "answer"),
)


def episode(index: int = 0, **fields) -> Sample:
    settings = {
        "token_ids": tuple(TOKENIZER.encode("call42.is 42")),
        "loss_mask": (True,) * 4 + (False,) * 3 + (True,) * 5,
        "weight_versions": (2,) * 4 + (-1,) * 3 + (3,) * 5,
        "turns": TURNS,
    }
    return make_sample(PROMPT, index, "call42.is 42", **(settings | fields))


def group_of(*samples: Sample) -> Group:
    return Group(samples[0].prompt, samples, (Reward(1.0, 1.0, None, 0.0),) * len(samples))


def test_what_is_judged_is_the_models_last_turn():
    assert episode().final_text == "is 42"
    assert make_sample(PROMPT, 0, "42").final_text == "42"


def test_a_batch_numbers_the_turns_of_its_tokens():
    batch = RolloutBatch.from_groups([group_of(episode(), make_sample(PROMPT, 1, "no"))])
    assert batch.turn_numbers.tolist() == [0] * 7 + [1] * 5 + [0] * 3
    assert batch.loss_mask.tolist() == [True] * 4 + [False] * 3 + [True] * 8
    assert RolloutBatch.from_groups([group_of(make_sample(PROMPT, 0, "no"))]).turns is None


def test_a_batch_says_of_tokens_what_turns_have_earned_where_and_by_whom():
    """Without an anchor, a turn is written in the state that what was put in before it says."""
    elsewhere = episode(1, turns=(Turn(0, 4, "model"), *TURNS[1:]))
    batch = RolloutBatch.from_groups([group_of(episode(), elsewhere)])
    assert batch.turn_rewards.tolist() == [0.5] * 7 + [0] * 17
    assert batch.anchors.tolist() == [0] * 7 + [1] * 5 + [2] * 7 + [1] * 5
    assert batch.roles.tolist() == [0] * 7 + [1] * 17


def test_a_batch_counts_the_calls_of_a_turn_that_failed():
    called = replace(TURNS[0], num_calls=3)
    batch = RolloutBatch.from_groups([group_of(episode(turns=(called, *TURNS[1:])), episode(1))])
    assert batch.failed_calls is not None
    assert batch.failed_calls.tolist() == [2] * 7 + [0] * 5 + [0] * 12


def test_what_stands_before_the_first_turn_is_of_it():
    told = Turn(0, 2, "observation", "Go.")
    moved = tuple(replace(turn, start=max(2, turn.start)) for turn in TURNS)
    assert Response(12, (told, *moved)).of_tokens(["a", "b"], "") == ["a"] * 7 + ["b"] * 5
    assert Response(12, (told, *moved)).anchors == ["start", "42."]


def test_a_turn_without_tokens_is_none_and_earns_nothing():
    empty = Turn(7, 7, "model")
    assert Response(12, (*TURNS[:2], empty, TURNS[2])).own == [TURNS[0], TURNS[2]]
    with pytest.raises(ValueError, match="a turn of model from 7 to 7 has a reward, exp"):
        replace(empty, reward=1.0)
    with pytest.raises(ValueError, match="a turn of observation from 4 to 7 has a reward"):
        replace(TURNS[1], reward=1.0)


def test_a_batch_whose_turns_say_nothing_has_no_columns_of_it():
    silent = episode(turns=(Turn(0, 4, "model"), *TURNS[1:]))
    batch = RolloutBatch.from_groups([group_of(silent)])
    assert (batch.turn_rewards, batch.roles) == (None, None)
    plain = RolloutBatch.from_groups([group_of(make_sample(PROMPT, 0, "no"))])
    assert (plain.turns, plain.anchors) == (None, None)


def test_nothing_is_learned_from_a_sample_that_ended_void():
    void = episode(1, finish_reason="void")
    batch = RolloutBatch.from_groups([group_of(episode(), void)])
    assert batch.num_loss_tokens.tolist() == [9, 0]
    assert batch.rewards.tolist() == [1, 1]


def test_dumps_keep_turns_and_are_replayed_with_them(tmp_path):
    path = tmp_path / "samples" / "step_000001.jsonl"
    plain = make_sample(PROMPT, 1, "no")
    dump_samples(path, [group_of(episode(finish_reason="turns"), plain)], [0.0, 0.0])
    first, second = map(json.loads, path.read_text().splitlines())
    assert first["turns"][1] == {
        "start": 4,
        "end": 7,
        "kind": "observation",
        "text": "42.",
        "taken_as": "",
        "num_calls": 0,
        "num_invalid": 0,
        "num_ok": 1,
        "seconds": 0.5,
        "failure": None,
        "reward": None,
        "anchor": "",
        "role": "",
    }
    assert "turns" not in second
    engine = ReplayEngine(path, TOKENIZER, vocab_size=VOCAB_SIZE)
    found = list(engine.generate(requests_of([PROMPT], 2), SamplingConfig(), seed=0))
    assert [(sample.turns, sample.finish_reason) for sample in found] == [
        (TURNS, "turns"),
        ((), "stop"),
    ]


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (
            [{"start": 0, "end": 2, "kind": "model"}],
            r"turns end at \[2\], expected them to cover 3",
        ),
        (
            [{"start": 0, "end": 1, "kind": "model"}, {"start": 2, "end": 3, "kind": "model"}],
            "a turn starts at 2, expected 1",
        ),
        ([{"start": 0, "end": 3, "kind": "user"}], "turns.0.kind"),
        (
            [{"start": 0, "end": 3, "kind": "model", "reward": 1e19}],
            "a turn has a reward of 1e.19, expected one within 1e.18",
        ),
    ],
)
def test_recorded_turns_have_to_be_the_response(tmp_path, turns, message):
    row = {"prompt": "a", "response": "no", "turns": turns}
    path = write_jsonl(tmp_path / "recorded.jsonl", [row])
    with pytest.raises(UserError, match=rf"recorded\.jsonl:1: .*{message}"):
        ReplayEngine(path, TOKENIZER, vocab_size=VOCAB_SIZE)


def test_checkpoints_keep_turns_and_those_without_any_are_read():
    group = group_of(episode(), make_sample(PROMPT, 1, "no"))
    plain = json.loads(json.dumps(group_to_plain(group)))
    assert "turns" not in plain["samples"][1]
    found = group_from_plain(plain)
    assert [sample.turns for sample in found.samples] == [TURNS, ()]


def test_the_bank_keeps_turns(tmp_path):
    bank = Bank(tmp_path, "ours", report=pytest.fail)
    bank.begin(1, {})
    for sample in (episode(), make_sample(PROMPT, 1, "no")):
        bank.add_sample(sample)
    bank.close()
    again = Bank(tmp_path, "ours", report=pytest.fail)
    again.begin(1, {})
    found = [banked.sample(PROMPT) for banked in again.samples.values()]
    again.close()
    assert [(sample.turns, sample.versions) for sample in found] == [(TURNS, {2, 3}), ((), {3})]


@pytest.mark.parametrize("version", [-1, 0, 99])
def test_whatever_version_is_put_under_the_mask_changes_nothing(version):
    """Nor does its length: a response is as long as what the policy chose."""
    sample = episode(weight_versions=(2,) * 4 + (version,) * 3 + (3,) * 5)
    longer = replace(
        sample,
        token_ids=(*sample.token_ids, 65, 65),
        logprobs=(*sample.logprobs, 0.0, 0.0),
        loss_mask=(*sample.loss_mask, False, False),
        weight_versions=(*sample.weight_versions, version, version),
        turns=(*TURNS, Turn(12, 14, "notice", "AA")),
    )
    chosen = make_sample(
        PROMPT,
        0,
        "is 42",
        token_ids=tuple(compress(sample.token_ids, sample.loss_mask)),
        weight_versions=(2,) * 4 + (3,) * 5,
    )
    for found in (sample, longer):
        assert GrowingGroup(PROMPT, 1, {0: found}).oldest_version == 2
        groups, expected = [group_of(found)], [group_of(chosen)]
        assert staleness_statistics(groups, 4) == staleness_statistics(expected, 4)
        assert group_statistics(groups) == group_statistics(expected)


def test_an_evaluation_counts_turns_and_calls(tmp_path, scorer):
    path = tmp_path / "dump.jsonl"
    dump_samples(path, [group_of(episode(), episode(1))], [0.0] * 2, [])
    config = EvalSection(samples_per_prompt=2, max_response_tokens=100)
    engine = ReplayEngine(path, TOKENIZER, vocab_size=VOCAB_SIZE)
    metrics = evaluate(engine, [PROMPT], scorer, config, seed=1).metrics
    assert all(find_metric(name) for name in metrics)
    wanted = {
        "eval/turns_mean": 2.0,
        "eval/turns_ended_stop": 2.0,
        "eval/tools_calls_mean": 1.0,
        "eval/tools_ok_share": 1.0,
        "eval/time_tools_s": 0.5,
    }
    assert {name: metrics[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"method": "gigpo"}, "algorithm.gigpo reads turns with workflow.format=null"),
        ({"method": "st_ppo"}, "algorithm.st_ppo reads turns with workflow.format=null"),
        ({"method": "igpo"}, "algorithm.igpo reads rewards of turns, which no environment"),
        ({"method": "mars"}, "algorithm.mars reads roles of turns, which no environment"),
    ],
)
def test_a_run_whose_turns_will_not_say_what_a_method_reads_is_refused(sections, message):
    tree = {"model": {"path": "model"}, "data": {"path": "p.jsonl"}, "algorithm": sections}
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate(tree)
    recorded = {"engine": "replay", "replay_path": "samples.jsonl"}
    TrainConfig.model_validate({**tree, "rollout": recorded})


@pytest.mark.parametrize(
    ("method", "turns", "message"),
    [
        ("gigpo", (), "algorithm.gigpo reads turns: no sample of step 3 has any"),
        ("mapo", (Turn(0, 12, "model"),), "algorithm.mapo reads rewards of turns: no sample"),
        ("mars", (Turn(0, 12, "model", reward=1.0),), "algorithm.mars reads roles of turns: no"),
    ],
)
def test_recorded_turns_that_do_not_say_it_end_the_run_where_they_come(method, turns, message):
    tree = {"model": {"path": "model"}, "data": {"path": "p.jsonl"}}
    tree |= {"rollout": {"engine": "replay", "replay_path": "samples.jsonl"}}
    config = TrainConfig.model_validate({**tree, "algorithm": {"method": method}})
    batch = RolloutBatch.from_groups([group_of(episode(turns=turns))])
    step = Step(3, 0.5, batch, torch.arange(12), batch.sample_ids, batch.loss_mask, [[0]])
    step.facts.update(facts_of_turns(batch))
    with pytest.raises(UserError, match=message):
        check_turns(step, config.algorithm)
    named = replace(episode().turns[0], end=12, role="asker")
    batch = RolloutBatch.from_groups([group_of(episode(turns=(named,)))])
    step.facts.update(facts_of_turns(batch))
    check_turns(step, config.algorithm)
