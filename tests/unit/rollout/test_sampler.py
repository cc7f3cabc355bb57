"""Dynamic sampling and its books. Verdicts are scripted through recorded responses."""

from collections.abc import Generator
from dataclasses import replace

import pytest

from megatron_stare.config.rollout import RolloutConfig
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.errors import UserError
from megatron_stare.observe.metrics import find_metric
from megatron_stare.rollout.groups import generate_groups
from megatron_stare.rollout.sampler import Sampler, num_to_generate
from megatron_stare.types import Sample
from tests.models import VOCAB_SIZE
from tests.unit.rollout.problems import TOKENIZER, make_prompt, make_prompt_set, write_jsonl

MIXED, SOLVED, UNSOLVED = ["yes", "no"], ["yes", "yes"], ["no", "no"]


def make_engine(folder, responses: dict[str, list[str]]) -> ReplayEngine:
    rows = [{"prompt": p, "response": r} for p, texts in responses.items() for r in texts]
    path = write_jsonl(folder / "recorded.jsonl", rows)
    return ReplayEngine(path, TOKENIZER, vocab_size=VOCAB_SIZE)


def make_config(folder, **fields) -> RolloutConfig:
    settings = {"engine": "replay", "replay_path": folder / "recorded.jsonl"}
    return RolloutConfig(**settings, samples_per_prompt=2, max_response_tokens=10, **fields)


def collect(folder, scorer, responses: dict[str, list[str]], *, engine=None, step=1, **config):
    """Collect one step; the prompts are drawn in the order of `responses`."""
    sampler = Sampler(
        make_prompt_set(folder, list(responses)),
        engine or make_engine(folder, responses),
        scorer,
        make_config(folder, **config),
        seed=1,
    )
    return sampler.collect(step)


def endings(rollout) -> tuple[float, ...]:
    names = ("completed", "filtered", "failed", "aborted", "rounds")
    return tuple(rollout.metrics[f"rollout/{name}"] for name in names)


def kept(rollout) -> list[str]:
    return [group.prompt.text for group in rollout.groups]


def test_groups_without_signal_are_replaced(tmp_path, scorer):
    responses = {"a": SOLVED, "b": MIXED, "c": UNSOLVED, "d": MIXED, "e": MIXED, "f": MIXED}
    rollout = collect(tmp_path, scorer, responses, prompts_per_step=3)
    # Round 1 draws a, b, c and keeps b; at that rate the 2 missing ones take 6 prompts, a batch
    # at most: d, e, f. One is too many, the last.
    assert kept(rollout) == ["b", "d", "e"]
    assert {group.prompt.text for group in rollout.filtered} == {"a", "c", "f"}
    assert endings(rollout) == (3, 3, 0, 0, 2)
    assert rollout.metrics["rollout/drawn"] == 6


def test_without_dynamic_sampling_every_group_is_kept(tmp_path, scorer):
    responses = {"a": SOLVED, "b": MIXED, "c": UNSOLVED}
    rollout = collect(tmp_path, scorer, responses, prompts_per_step=3, dynamic_sampling=False)
    assert kept(rollout) == ["a", "b", "c"]
    assert endings(rollout) == (3, 0, 0, 0, 1)


def test_a_group_holds_its_samples_and_rewards_by_index(tmp_path, scorer):
    (group,) = collect(tmp_path, scorer, {"a": ["no", "yes"]}, prompts_per_step=1).groups
    assert [sample.index for sample in group.samples] == [0, 1]
    assert [sample.text for sample in group.samples] == ["no", "yes"]
    assert [reward.correct for reward in group.rewards] == [0.0, 1.0]


def test_reward_metrics_are_over_all_groups_before_filtering(tmp_path, scorer):
    responses = {"a": SOLVED, "b": MIXED, "c": UNSOLVED, "d": UNSOLVED, "e": MIXED, "f": MIXED}
    rollout = collect(tmp_path, scorer, responses, prompts_per_step=3)
    assert kept(rollout) == ["b", "e", "f"]
    assert rollout.metrics["reward/mean"] == 5 / 12
    assert rollout.metrics["reward/accuracy"] == 5 / 12
    assert rollout.metrics["reward/solve_all"] == 1 / 6
    assert rollout.metrics["reward/solve_none"] == 2 / 6
    assert rollout.metrics["reward/signal_share"] == 3 / 6
    assert rollout.metrics["reward/failures"] == 0


def test_lengths(tmp_path, scorer):
    recorded = [
        {"prompt": "a", "response": "yes"},
        {"prompt": "a", "response": "no......", "finish_reason": "length"},
    ]
    path = write_jsonl(tmp_path / "recorded.jsonl", recorded)
    engine = ReplayEngine(path, TOKENIZER, vocab_size=VOCAB_SIZE)
    metrics = collect(tmp_path, scorer, {"a": []}, engine=engine, prompts_per_step=1).metrics
    assert metrics["rollout/response_tokens_mean"] == (4 + 8) / 2
    assert metrics["rollout/response_tokens_p95"] == pytest.approx(7.8)
    assert metrics["rollout/truncated_share"] == 1 / 2


def test_every_metric_is_in_the_glossary(tmp_path, scorer):
    rollout = collect(tmp_path, scorer, {"a": MIXED}, prompts_per_step=1)
    for name, value in rollout.metrics.items():
        assert find_metric(name)
        assert isinstance(value, float)


@pytest.mark.parametrize(
    ("size", "num_kept", "num_drawn", "expected"),
    [
        (64, 0, 0, 64),  # the first round
        (64, 0, 64, 64),  # nothing kept: no share to go by
        (64, 32, 64, 64),  # half are kept, 32 missing
        (64, 60, 64, 5),  # 4 missing at 15/16, rounded up
        (64, 8, 64, 64),  # 448 by the share, a batch at most
    ],
)
def test_a_round_draws_what_is_missing_over_the_share_kept(size, num_kept, num_drawn, expected):
    assert num_to_generate(size, num_kept, num_drawn) == expected


def test_giving_up_says_what_was_seen_and_what_to_change(tmp_path, scorer):
    responses = {"a": MIXED, "b": SOLVED, "c": UNSOLVED, "d": UNSOLVED, "e": UNSOLVED, "f": SOLVED}
    with pytest.raises(UserError) as error:
        collect(tmp_path, scorer, responses, prompts_per_step=2, max_rounds=3, step=7)
    message = str(error.value)
    assert message.startswith("step 7: 1 of rollout.prompts_per_step=2 groups after ")
    assert "of 6 prompts, 3 have no correct sample, 2 only correct ones" in message
    assert "rollout.samples_per_prompt" in message
    assert "\n" not in message


def test_a_recording_that_is_used_up_ends_clearly(tmp_path, scorer):
    with pytest.raises(UserError, match=r"of 20 prompts, 0 .*, 1 only correct ones, 18 were not"):
        collect(tmp_path, scorer, {"a": MIXED, "b": SOLVED}, prompts_per_step=2)


def test_a_recording_serves_again_at_the_next_step(tmp_path, scorer):
    # 3 prompts, 2 of them mixed, 2 a step: drawing crosses the end of the set in every step.
    responses = {"a": MIXED, "b": SOLVED, "c": MIXED}
    engine = make_engine(tmp_path, responses)
    sampler = Sampler(
        make_prompt_set(tmp_path, list(responses)),
        engine,
        scorer,
        make_config(tmp_path, prompts_per_step=2),
        seed=1,
    )
    for step in (1, 2, 3):
        engine.update_weights([], version=step)
        assert sorted(kept(sampler.collect(step))) == ["a", "c"]


class UnreliableEngine(ReplayEngine):
    """Loses or stops samples of the prompts named so."""

    def generate(self, requests, sampling, *, seed) -> Generator[Sample, None, None]:
        for sample in super().generate(requests, sampling, seed=seed):
            if sample.prompt.text.startswith("lost") and sample.index == 1:
                continue
            if sample.prompt.text.startswith("stopped") and sample.index == 0:
                sample = replace(sample, finish_reason="aborted")
            yield sample


def test_prompts_that_are_not_answered_are_counted_and_replaced(tmp_path, scorer):
    responses = {"lost": MIXED, "a": MIXED, "stopped": MIXED, "b": MIXED, "c": MIXED, "d": MIXED}
    make_engine(tmp_path, responses)
    engine = UnreliableEngine(tmp_path / "recorded.jsonl", TOKENIZER, vocab_size=VOCAB_SIZE)
    rollout = collect(tmp_path, scorer, responses, engine=engine, prompts_per_step=3)
    assert kept(rollout) == ["a", "b", "c"]
    assert endings(rollout) == (3, 1, 1, 1, 2)


class RepeatingEngine(ReplayEngine):
    def generate(self, requests, sampling, *, seed) -> Generator[Sample, None, None]:
        for sample in super().generate(requests, sampling, seed=seed):
            yield sample
            yield sample


def test_no_sample_is_used_twice(tmp_path, scorer):
    make_engine(tmp_path, {"a": MIXED})
    engine = RepeatingEngine(tmp_path / "recorded.jsonl", TOKENIZER, vocab_size=VOCAB_SIZE)
    with pytest.raises(RuntimeError, match="sample 0 of prompt a twice, or unasked"):
        generate_groups(engine, scorer, [make_prompt("a")], 2, make_config(tmp_path), seed=0)


class SeedRecorder(ReplayEngine):
    seeds: list[int]

    def generate(self, requests, sampling, *, seed) -> Generator[Sample, None, None]:
        self.seeds.append(seed)
        return super().generate(requests, sampling, seed=seed)


def test_every_round_of_every_step_has_its_own_seed(tmp_path, scorer):
    responses = {"a": SOLVED, "b": MIXED}
    make_engine(tmp_path, responses)
    seeds = {}
    for step in (1, 1, 2):
        engine = SeedRecorder(tmp_path / "recorded.jsonl", TOKENIZER, vocab_size=VOCAB_SIZE)
        engine.seeds = []
        collect(tmp_path, scorer, responses, engine=engine, step=step, prompts_per_step=1)
        assert seeds.setdefault(step, engine.seeds) == engine.seeds, "not a function of the step"
    assert len({*seeds[1], *seeds[2]}) == 4


def test_progress_counts_samples(tmp_path, scorer):
    responses = {"a": SOLVED, "b": MIXED}
    arrived = []
    Sampler(
        make_prompt_set(tmp_path, list(responses)),
        make_engine(tmp_path, responses),
        scorer,
        make_config(tmp_path, prompts_per_step=1),
        seed=1,
    ).collect(1, arrived.append)
    assert sum(arrived) == 4
