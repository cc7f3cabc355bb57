"""Oversampling and partial rollouts, on an engine whose samples take as many ticks as tokens."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.rollout import RolloutConfig, SamplingConfig
from megatron_stare.engines.engine import Request
from megatron_stare.rollout.sampler import Cancelled, Sampler, rollout_from_plain, rollout_to_plain
from megatron_stare.types import Sample
from tests.unit.rollout.problems import make_prompt_set

SERVERS = {"engine": "sglang", "servers": {"urls": ["http://127.0.0.1:1"]}}


class TickingEngine:
    """All requests run side by side, a token a tick; the prompt "3 7" has responses of 3 and 7.

    Token i of a response is i; its log-prob tells the version that sampled it. The first sample is
    right; of a prompt that ends with ! both are.
    """

    def __init__(self) -> None:
        self.weight_version = 0
        self.asked: list[list[tuple[str, int, int]]] = []
        """Of each call: prompt, index, and how many tokens are begun."""
        self.generated: list[tuple[str, int, int]] = []
        """Uid, index and place of every token."""
        self._is_interrupted = False

    def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, *, seed: int
    ) -> Generator[Sample, None, None]:
        self._is_interrupted = False
        self.asked.append([(r.prompt.text, r.index, num_begun(r)) for r in requests])
        running = list(requests)
        for tick in range(1, 1000):
            if self._is_interrupted:
                break
            done = [r for r in running if num_begun(r) + tick == length_of(r)]
            running = [request for request in running if request not in done]
            for request in done:
                yield self._sample(request, tick)
        for request in running:
            yield self._sample(request, tick - 1)

    def interrupt(self) -> None:
        self._is_interrupted = True

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def _sample(self, request: Request, ticks: int) -> Sample:
        old = request.begun
        logprobs = (*(old.logprobs if old else ()), *[-1.0 - self.weight_version] * ticks)
        versions = (*(old.weight_versions if old else ()), *[self.weight_version] * ticks)
        length, text = len(versions), request.prompt.text
        self.generated += [
            (request.prompt.uid, request.index, place)
            for place in range(num_begun(request), length)
        ]
        return Sample(
            prompt=request.prompt,
            index=request.index,
            text="yes" if request.index == 0 or text.endswith("!") else "no",
            token_ids=tuple(range(length)),
            logprobs=logprobs,
            loss_mask=(True,) * length,
            finish_reason="stop" if length == length_of(request) else "aborted",
            weight_versions=versions,
            seconds=0.0,
        )


def length_of(request: Request) -> int:
    return int(request.prompt.text.rstrip("!").split()[request.index])


def num_begun(request: Request) -> int:
    return 0 if request.begun is None else len(request.begun.token_ids)


class Training:
    """Steps of a run: collect, then weights of the next version."""

    def __init__(self, folder, scorer, texts: list[str], **config) -> None:
        settings = {**SERVERS, "samples_per_prompt": 2, "prompts_per_step": 2} | config
        self.engine = TickingEngine()
        prompts = make_prompt_set(folder, texts)
        self.sampler = Sampler(prompts, self.engine, scorer, RolloutConfig(**settings), seed=1)
        self.rollouts = []

    def step(self):
        step = len(self.rollouts) + 1
        self.rollouts.append(self.sampler.collect(step))
        self.engine.weight_version = step
        return self.rollouts[-1]


def texts_of(groups) -> list[str]:
    return [group.prompt.text for group in groups]


def endings(rollout) -> dict[str, int]:
    names = ("completed", "filtered", "failed", "aborted", "carried")
    return {n: int(v) for n in names if (v := rollout.metrics[f"rollout/{n}"])}


def test_the_first_groups_that_are_whole_fill_the_batch_and_the_rest_is_stopped(tmp_path, scorer):
    training = Training(tmp_path, scorer, ["9 9", "2 2", "3 4", "1 8"], oversampling=2)
    rollout = training.step()
    assert texts_of(rollout.groups) == ["2 2", "3 4"]
    assert endings(rollout) == {"completed": 2, "aborted": 2}
    assert rollout.metrics["rollout/generated_tokens"] == 4 + 7 + 2 * 4 + 1 + 4


def test_groups_without_signal_do_not_count_as_full(tmp_path, scorer):
    training = Training(tmp_path, scorer, ["9 9", "2 2!", "3 4", "1 8"], oversampling=2)
    rollout = training.step()
    assert texts_of(rollout.groups) == ["3 4", "1 8"]
    assert endings(rollout) == {"completed": 2, "filtered": 1, "aborted": 1}


PARTIAL = {"oversampling": 2, "partial_rollouts": True}


def test_what_was_stopped_goes_on_where_it_stands_under_the_next_weights(tmp_path, scorer):
    training = Training(tmp_path, scorer, ["6 5", "2 2", "3 4", "1 8", "2 1", "1 1"], **PARTIAL)
    first, second = training.step(), training.step()
    assert endings(first) == {"completed": 2, "carried": 2}
    # "6 5" and "1 8" stood at 4 tokens, and one sample of "1 8" was finished.
    assert training.engine.asked[1][:3] == [("6 5", 0, 4), ("6 5", 1, 4), ("1 8", 1, 4)]
    assert texts_of(second.groups) == ["6 5", "1 8"]
    long, short = second.groups[0].samples
    assert long.token_ids == (0, 1, 2, 3, 4, 5)
    assert long.weight_versions == (0, 0, 0, 0, 1, 1)
    assert long.logprobs == (-1.0, -1.0, -1.0, -1.0, -2.0, -2.0)
    assert short.weight_versions == (0, 0, 0, 0, 1)
    assert second.metrics["rollout/staleness_max"] == 1
    assert second.metrics["rollout/staleness_mean"] == (4 + 4 + 1 + 4) / (6 + 5 + 1 + 8)


def test_a_batch_waits_for_groups_that_would_become_too_old(tmp_path, scorer):
    """Those of 40 tokens are neither dropped nor older than allowed, however short the others."""
    texts = ["40 40", "1 1", "2 1", "40 1", *["1 2"] * 30]
    training = Training(tmp_path, scorer, texts, **PARTIAL, max_staleness=2)
    rollouts = [training.step() for _ in range(6)]
    assert texts_of(rollouts[2].groups) == ["40 40", "40 1"]
    assert [r.metrics["rollout/staleness_max"] for r in rollouts[:3]] == [0, 0, 2]
    assert all(r.metrics["rollout/staleness_max"] <= 2 for r in rollouts)


def test_every_prompt_is_trained_on_once_and_every_token_is_generated_once(tmp_path, scorer):
    texts = [f"{1 + i * 7 % 11} {1 + i * 5 % 13}" + "!" * (i % 4 == 0) for i in range(60)]
    training = Training(
        tmp_path, scorer, texts, **PARTIAL | {"prompts_per_step": 4, "max_staleness": 3}
    )
    rollouts = [training.step() for _ in range(10)]
    ended = [g for r in rollouts for g in (*r.groups, *r.filtered)]
    assert len({group.prompt.uid for group in ended}) == len(ended)
    assert all(len(rollout.groups) == 4 for rollout in rollouts)
    assert sum(endings(r).get("aborted", 0) + endings(r).get("failed", 0) for r in rollouts) == 0
    for group in ended:
        for sample in group.samples:
            assert sample.token_ids == tuple(range(length_of(Request(group.prompt, sample.index))))
            assert list(sample.weight_versions) == sorted(sample.weight_versions)
    generated = training.engine.generated
    assert len(set(generated)) == len(generated)
    assert sum(r.metrics["rollout/generated_tokens"] for r in rollouts) == len(generated)


def test_a_round_that_cannot_fill_the_batch_ends_for_new_prompts(tmp_path, scorer):
    """Waiting for 50 tokens would not help: one of three groups under way has no signal."""
    texts = ["1 1!", "50 50", "1 2!", "1 3", "2 2", "2 3"]
    training = Training(tmp_path, scorer, texts, **PARTIAL | {"oversampling": 1.5})
    rollout = training.step()
    assert texts_of(rollout.groups) == ["1 3", "2 2"]
    assert rollout.metrics["rollout/rounds"] == 2
    assert max(len(s.token_ids) for g in rollout.groups for s in g.samples) < 50


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partial_rollouts": True, "oversampling": 1.5}, "engine='embedded', oversampling=1.5"),
        ({**SERVERS, "partial_rollouts": True}, "needs engine 'sglang', and oversampling > 1"),
        ({**SERVERS, **PARTIAL, "one_step_off": True}, "expected max_staleness of at least 2"),
        ({"oversampling": 2.5}, "less than or equal to 2"),
        ({"colocated": True}, "colocated=true with engine='embedded'"),
        ({**SERVERS, "colocated": True, "one_step_off": True}, "generation and training in turn"),
    ],
)
def test_settings_that_cannot_be_together_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        RolloutConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("rollout", "algorithm", "links"),
    [
        ({}, {}, ["grpo", "stare"]),
        ({"one_step_off": True}, {}, ["grpo", "stare", "tis"]),
        ({**SERVERS, **PARTIAL}, {"method": "grpo"}, ["grpo", "tis"]),
        ({"one_step_off": True}, {"correct_stale": False}, ["grpo", "stare"]),
        ({"one_step_off": True}, {"links": ["rloo", "icepop"]}, ["rloo", "icepop"]),
        ({}, {"links": ["grpo", "mis"]}, ["grpo", "mis"]),
    ],
)
def test_older_tokens_are_corrected_unless_told_otherwise(rollout, algorithm, links):
    config = TrainConfig.model_validate(
        {
            "model": {"path": "model"},
            "data": {"path": "data.jsonl"},
            "rollout": rollout,
            "algorithm": algorithm,
        }
    )
    assert list(config.algorithm.links) == links


TEXTS = ["6 5", "2 2", "3 4", "1 8", "2 1", "1 1", "7 3", "4 4"]


def test_a_saved_sampler_goes_on_with_the_groups_it_carried(tmp_path, scorer):
    """Whole ones and begun ones; the saved state is what a checkpoint can hold."""
    training = Training(tmp_path, scorer, TEXTS, **PARTIAL)
    training.step()
    torch.save(training.sampler.state_dict(), tmp_path / "state.pt")
    expected = [training.step(), training.step()]

    resumed = Training(tmp_path, scorer, TEXTS, **PARTIAL)
    resumed.sampler.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    resumed.rollouts, resumed.engine.weight_version = [expected[0]], 1
    found = [resumed.step(), resumed.step()]
    for rollout, reference in zip(found, expected, strict=True):
        assert [group.samples for group in rollout.groups] == [
            group.samples for group in reference.groups
        ]


def test_a_step_that_is_cancelled_leaves_everything_as_it_was(tmp_path, scorer):
    """Even the groups that were growing: the next sampler begins with them where they stood."""
    training = Training(tmp_path, scorer, TEXTS, **PARTIAL)
    training.step()
    before = training.sampler.state_dict()
    stop = training.engine.generate

    def generate(requests, sampling, *, seed):
        for sample in stop(requests, sampling, seed=seed):
            training.sampler.cancel()
            yield sample

    training.engine.generate = generate
    with pytest.raises(Cancelled):
        training.step()
    assert training.sampler.state_dict() == before


def test_a_rollout_is_the_same_after_a_checkpoint(tmp_path, scorer):
    rollout = Training(tmp_path, scorer, TEXTS, oversampling=2).step()
    torch.save(rollout_to_plain(rollout), tmp_path / "rollout.pt")
    assert rollout_from_plain(torch.load(tmp_path / "rollout.pt", weights_only=True)) == rollout
