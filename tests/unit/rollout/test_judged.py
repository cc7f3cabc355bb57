"""What was not judged counts for nothing: in no mean, no batch, no question; and it is told."""

from __future__ import annotations

import json

import pytest
import torch

from megatron_stare.algorithms.advantages import ADVANTAGES, group_advantages
from megatron_stare.config.evaluation import EvalSection
from megatron_stare.data.packing import split_updates
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.errors import UserError
from megatron_stare.observe.report import write_report
from megatron_stare.rollout.bank import Bank
from megatron_stare.rollout.dump import dump_samples
from megatron_stare.rollout.evaluate import evaluate
from megatron_stare.rollout.groups import score_groups
from megatron_stare.rollout.plain import group_from_plain, group_to_plain
from megatron_stare.rollout.sampler import Sampler
from megatron_stare.rollout.statistics import group_statistics, staleness_statistics
from megatron_stare.types import Group, Reward, RolloutBatch
from tests.models import VOCAB_SIZE
from tests.unit.rollout.problems import TOKENIZER, make_prompt, make_prompt_set, make_sample
from tests.unit.rollout.test_sampler import collect, endings, kept, make_config, make_engine

LOST = Reward(0.0, 0.0, "process died (exit code 3)", 0.1, is_judged=False)
LATE = Reward(0.0, 0.0, "deadline of 10 s", 10.0)


class LosingScorer:
    """Right is "yes"; of "lost" there is no verdict."""

    def score(self, samples) -> list[Reward]:
        texts = [sample.text for sample in samples]
        return [
            LOST if text == "lost" else Reward(float(text == "yes"), float(text == "yes"), None, 0)
            for text in texts
        ]


def group_of(*texts: str, name: str = "a") -> Group:
    prompt = make_prompt(name)
    samples = tuple(make_sample(prompt, index, text) for index, text in enumerate(texts))
    return Group(prompt, samples, tuple(LosingScorer().score(samples)))


@pytest.mark.parametrize(
    ("texts", "can_be_compared"),
    [
        (["yes", "no", "lost"], True),
        (["yes", "lost", "lost"], False),
        (["lost", "lost"], False),
        (["yes"], True),
        (["lost"], False),
    ],
)
def test_a_group_needs_two_judged_samples_or_its_only_one(texts, can_be_compared):
    assert group_of(*texts).can_be_compared == can_be_compared


@pytest.mark.parametrize("dynamic_sampling", [True, False])
def test_a_group_with_fewer_than_two_judged_samples_is_replaced(tmp_path, dynamic_sampling):
    responses = {
        "a": ["yes", "no", "lost"],
        "b": ["lost", "yes", "lost"],
        "c": ["lost", "lost", "lost"],
        "d": ["no", "yes", "no"],
        "e": ["no", "yes", "yes"],
        "f": ["no", "yes", "yes"],
    }
    rollout = collect_three(tmp_path, responses, dynamic_sampling=dynamic_sampling)
    assert kept(rollout) == ["a", "d", "e"]
    assert {group.prompt.text for group in rollout.filtered} == {
        "b",
        "c",
        "f",
    }  # The last is one too many.
    assert endings(rollout) == (3, 3, 0, 0, 2)
    assert rollout.metrics["rollout/drawn"] == 6
    assert rollout.metrics["reward/failures"] == 6


def collect_three(folder, responses, *, group_size=3, **config):
    """A step of three groups."""
    engine = make_engine(folder, responses)
    settings = make_config(folder, prompts_per_step=3, **config)
    settings = settings.model_copy(update={"samples_per_prompt": group_size})
    prompts = make_prompt_set(folder, list(responses))
    return Sampler(prompts, engine, LosingScorer(), settings, seed=1).collect(1)


def test_dynamic_sampling_asks_the_judged_alone(tmp_path):
    """A lost verdict that counted 0 would make the first group one of two opinions."""
    responses = {
        "a": ["yes", "yes", "lost"],
        "b": ["no", "lost", "no"],
        "c": ["yes", "no", "lost"],
        **{name: ["yes", "no", "no"] for name in "def"},
    }
    rollout = collect_three(tmp_path, responses)
    assert kept(rollout) == ["c", "d", "e"]


def test_the_only_sample_of_a_group_that_is_lost_is_replaced(tmp_path):
    responses = {"a": ["yes"], "b": ["lost"], "c": ["no"], "d": ["yes"]}
    assert kept(collect_three(tmp_path, responses, group_size=1)) == ["a", "c", "d"]


def test_where_no_batch_can_be_filled_the_groups_without_verdicts_are_named(tmp_path):
    responses = {"a": ["yes", "no"], "b": ["yes", "lost"], "c": ["no", "lost"], "d": ["no", "yes"]}
    reason = r"of 3 prompts, 0 have .*, 2 have too few that are judged, 0 were not answered"
    with pytest.raises(UserError, match=reason):
        collect(tmp_path, LosingScorer(), responses, prompts_per_step=3, max_rounds=1)


@pytest.mark.parametrize("kind", ADVANTAGES)
def test_a_batch_is_the_judged_samples_and_their_advantages_know_no_others(kind):
    groups = [group_of("yes", "lost", "no", "yes"), group_of("lost", "no", "yes", "no", name="b")]
    batch = RolloutBatch.from_groups(groups)
    alone = RolloutBatch.from_groups([group.judged for group in groups])
    for name in RolloutBatch.__dataclass_fields__:
        torch.testing.assert_close(getattr(batch, name), getattr(alone, name), rtol=0, atol=0)
    assert batch.group_ids.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.rewards.tolist() == [1, 0, 1, 0, 1, 0]
    texts = [s.text for group in groups for s in group.samples if s.text != "lost"]
    assert batch.response_lengths.tolist() == [len(TOKENIZER.encode(t)) + 1 for t in texts]
    found = group_advantages(batch.rewards, batch.group_ids, kind)
    for number in (0, 1):
        rewards = batch.rewards[batch.group_ids == number]
        expected = group_advantages(rewards, torch.zeros(3, dtype=torch.int64), kind)
        torch.testing.assert_close(found[batch.group_ids == number], expected)


def test_updates_are_of_groups_whatever_their_sizes():
    groups = [group_of("yes", "lost", "no"), group_of("no", "yes", "no", name="b")]
    batch = RolloutBatch.from_groups(groups)
    assert split_updates(batch.group_ids.tolist(), 2) == [[0, 1], [2, 3, 4]]


def test_metrics_are_of_the_judged_and_count_the_rest():
    groups = [
        group_of("yes", "yes", "lost"),
        group_of("lost", "no", "no", name="b"),
        group_of("yes", "no", "lost", name="c"),
        group_of("yes", "lost", "lost", name="d"),
        group_of("lost", "lost", "lost", name="e"),
    ]
    metrics = group_statistics(groups)
    assert metrics["reward/accuracy"] == metrics["reward/mean"] == 4 / 7
    assert metrics["reward/solve_all"] == metrics["reward/solve_none"] == 1 / 3
    assert metrics["reward/signal_share"] == 1 / 3
    assert metrics["reward/failures"] == 8


def test_the_age_of_tokens_is_of_those_trained_on():
    group = group_of("yes", "no", "lost")
    old = make_sample(group.prompt, 2, "lost", weight_versions=(0,) * 5)
    aged = Group(group.prompt, (*group.samples[:2], old), group.rewards)
    assert staleness_statistics([aged], step=4)["rollout/staleness_max"] == 0


def test_a_dump_has_no_numbers_for_what_was_not_judged(tmp_path):
    prompt = make_prompt("a")
    samples = tuple(make_sample(prompt, index, "no") for index in range(3))
    group = Group(prompt, samples, (LOST, LATE, Reward(1.0, 1.0, None, 0.1)))
    path = tmp_path / "samples" / "step_000001.jsonl"
    dump_samples(path, [group], [-0.7, 0.7], [group_of("yes", "lost", name="b")])
    keys = ("kept", "reward", "correct", "advantage", "failure")
    assert [
        tuple(line[key] for key in keys) for line in map(json.loads, path.read_text().splitlines())
    ] == [
        (True, None, None, None, LOST.failure),
        (True, 0, 0, -0.7, LATE.failure),
        (True, 1, 1, 0.7, None),
        (False, 1, 1, None, None),
        (False, None, None, None, LOST.failure),
    ]
    with pytest.raises(ValueError, match="longer"):
        dump_samples(path, [group], [-0.7, 0.7, 0.0])
    assert ReplayEngine(path, TOKENIZER, vocab_size=VOCAB_SIZE)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "unix_time_s": 1.0, "reward/mean": 0.5}\n')
    (tmp_path / "config.yaml").write_text("train: {steps: 1}\n")
    page = write_report([tmp_path], tmp_path / "report")
    assert "not judged" in page.read_text()


def test_it_is_still_not_judged_after_a_checkpoint_and_in_the_bank(tmp_path):
    group = group_of("yes", "lost")
    assert group_from_plain(json.loads(json.dumps(group_to_plain(group)))).rewards == group.rewards
    before = Bank(tmp_path / "bank", "ours", print)
    before.begin(1, {})
    for sample in group.samples:
        before.add_sample(sample)
    before.add_rewards(group.samples, group.rewards)
    before.close()
    after = Bank(tmp_path / "bank", "ours", print)
    after.begin(1, {})
    assert tuple(after.reward_of(sample) for sample in group.samples) == group.rewards
    after.close()


def test_what_was_saved_without_saying_so_is_judged():
    """By versions before: a failure was wrong."""
    plain = group_to_plain(group_of("yes", "no"))
    for reward in plain["rewards"]:
        del reward["is_judged"]
    group = group_from_plain(plain)
    assert isinstance(group, Group)
    assert group.judged == group


def test_an_evaluation_is_over_the_judged(tmp_path):
    responses = {"p": ["yes", "lost", "no"], "q": ["lost", "lost", "yes"], "r": ["no"] * 3}
    engine = make_engine(tmp_path, responses)
    config = EvalSection(samples_per_prompt=3, max_response_tokens=10)
    prompts = [make_prompt(name) for name in responses]
    metrics = evaluate(engine, prompts, LosingScorer(), config, seed=1).metrics
    assert metrics["eval/failures"] == 3
    assert metrics["eval/avg_at_k"] == 2 / 6
    assert metrics["eval/pass_at_1"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert metrics["eval/pass_at_2"] == pytest.approx((1 + 0) / 2)  # Of q one sample is judged.
    assert metrics["eval/pass_at_3"] == 0  # Of r.


def test_a_rate_that_no_group_tells_is_left_out(tmp_path):
    engine = make_engine(tmp_path, {"p": ["yes", "lost"]})
    config = EvalSection(samples_per_prompt=2, max_response_tokens=10)
    metrics = evaluate(engine, [make_prompt("p")], LosingScorer(), config, seed=1).metrics
    assert metrics["eval/pass_at_1"] == 1
    assert "eval/pass_at_2" not in metrics


def test_no_groups_have_no_rewards():
    assert score_groups(LosingScorer(), []) == []
