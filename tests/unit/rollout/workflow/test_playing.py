"""Episodes on engines: many at a time, interrupted, gone on with, and the same again."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.config.workflow import WorkflowConfig
from megatron_stare.engines.embedded import EmbeddedEngine
from megatron_stare.engines.engine import Request
from megatron_stare.rollout.groups import GrowingGroup
from megatron_stare.rollout.plain import group_from_plain, group_to_plain
from megatron_stare.rollout.workflow.playing import PlayingEngine
from megatron_stare.rollout.workflow.tool_use import ToolUse
from megatron_stare.rollout.workflow.toolbox import Toolbox
from megatron_stare.tools.tool import ToolResult
from megatron_stare.types import Sample
from tests.models import make_hf_folder
from tests.unit.rollout.workflow.episodes import (
    STOP_IDS,
    TOKENIZER,
    Calculator,
    EveryTurnCalls,
    Speaker,
    asked,
    call,
    check,
    workflow,
)

SCRIPT = {"a": [call("1+1"), call("2+2"), "4"], "b": ["5"], "c": [call("3+3"), "6"]}
REQUESTS = [Request(asked(uid), index) for uid in SCRIPT for index in range(2)]
SAMPLING = SamplingConfig(max_response_tokens=1000)


def tools_of(calculator: Calculator) -> Toolbox:
    return Toolbox({"calculator": calculator}, deadline_s=5.0, max_attempts=1, report=pytest.fail)


def evaluated(expression: str) -> str:
    return str(eval(expression))


def played(
    speaker: Speaker, requests: Sequence[Request] = REQUESTS, calculator=None
) -> list[Sample]:
    calculator = calculator or Calculator(evaluated)
    engine = PlayingEngine(speaker, workflow(), tools_of(calculator))
    samples = list(engine.generate(requests, SAMPLING, seed=0))
    assert calculator.num_open == 0
    return samples


def by_key(samples: Sequence[Sample]) -> dict[tuple[str, int], Sample]:
    return {(sample.prompt.uid, sample.index): sample for sample in samples}


@pytest.mark.parametrize("in_rounds", [False, True])
def test_every_episode_comes_once_and_was_sent_as_it_stood(in_rounds):
    speaker = Speaker(SCRIPT, in_rounds=in_rounds)
    samples = played(speaker)
    assert sorted(by_key(samples)) == sorted(request.key for request in REQUESTS)
    assert len(samples) == 6
    for sample in samples:
        check(sample)
        last = sample.turns[-1]
        sent = sample.prompt.token_ids + sample.token_ids[: last.start]
        assert sent in speaker.asked
        assert sent + sample.token_ids[last.start :] == sample.prompt.token_ids + sample.token_ids


@pytest.mark.parametrize("stop_after", range(13))
def test_wherever_it_is_interrupted_an_episode_goes_on_to_the_same_end(stop_after):
    """In the middle of turns, and between them; through a checkpoint; under other weights."""
    whole = by_key(played(Speaker(SCRIPT)))
    speaker = Speaker(SCRIPT, stop_after=stop_after)
    calculator = Calculator(evaluated)
    engine = PlayingEngine(speaker, workflow(), tools_of(calculator))
    first = []
    for sample in engine.generate(REQUESTS, SAMPLING, seed=0):
        first.append(sample)
        if len(speaker.asked) >= stop_after:
            engine.interrupt()
    ended = [sample for sample in first if sample.finish_reason != "aborted"]
    begun = {key: s for key, s in by_key(first).items() if s.finish_reason == "aborted"}
    groups = [
        GrowingGroup(asked(uid), 2, {i: s for (u, i), s in begun.items() if u == uid})
        for uid in "abc"
    ]
    groups = [group_from_plain(group_to_plain(group)) for group in groups]
    kept = {r.key: r for group in groups for r in group.requests() if r.begun is not None}
    rest = [
        kept.get(request.key, request) for request in REQUESTS if request.key not in by_key(ended)
    ]
    found = by_key(ended + played(Speaker(SCRIPT, weight_version=4), rest))
    assert {k: s.token_ids for k, s in found.items()} == {k: s.token_ids for k, s in whole.items()}
    for key, sample in found.items():
        check(sample)
        expected = [replace(turn, seconds=0.0) for turn in whole[key].turns]
        assert [replace(turn, seconds=0.0) for turn in sample.turns] == expected


def test_a_tool_is_told_what_an_episode_had_called_before():
    (whole,) = played(Speaker(SCRIPT), REQUESTS[:1])
    turns = whole.turns[:3]
    fields = {
        name: getattr(whole, name)[: turns[-1].end]
        for name in ("token_ids", "logprobs", "loss_mask", "weight_versions")
    }
    begun = replace(whole, turns=turns, finish_reason="aborted", **fields)
    calculator = Calculator(evaluated)
    played(Speaker(SCRIPT), [Request(whole.prompt, 0, begun)], calculator)
    assert calculator.logs == [["1+1"]]


def test_an_engine_that_gives_a_request_up_leaves_its_episode_out():
    class Forgetful(Speaker):
        def generate(self, *args, **kwargs):
            for sample in super().generate(*args, **kwargs):
                if sample.prompt.uid != "b":
                    yield sample

    found = by_key(played(Forgetful(SCRIPT)))
    assert {uid for uid, _ in found} == {"a", "c"}


PROMPTS = [asked(text) for text in ("1", "What is it?", "2 * 3")]
LIMITS = SamplingConfig(max_response_tokens=160, turns={"max_turns": 4})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a model that ends its turns often."""
    path = tmp_path_factory.mktemp("model") / "model"
    return make_hf_folder(path, tokenizer=TOKENIZER, vocab_size=len(TOKENIZER))


def embedded(folder, max_batch_sequences: int = 8) -> PlayingEngine:
    """With a tool that takes its time, another one at every call."""
    engine = EmbeddedEngine(
        folder,
        TOKENIZER,
        device=torch.device("cpu"),
        dtype=torch.float32,
        max_batch_sequences=max_batch_sequences,
        stop_ids=STOP_IDS,
    )
    engine.load_weights(folder, version=0)

    def answer(expression: str) -> ToolResult:
        time.sleep(random.random() / 200)
        return ToolResult(f"[{expression}]", ok=True)

    config = WorkflowConfig(format="hermes")
    played = ToolUse(config, TOKENIZER, EveryTurnCalls(), ["calculator"], STOP_IDS)
    return PlayingEngine(engine, played, tools_of(Calculator(answer)))


def generated(engine: PlayingEngine, requests: Sequence[Request] | None = None) -> list[Sample]:
    everything = [Request(prompt, index) for prompt in PROMPTS for index in range(5)]
    samples = list(engine.generate(requests or everything, LIMITS, seed=7))
    return [replace(s, seconds=0.0, turns=_untimed(s.turns)) for s in samples]


def _untimed(turns):
    return tuple(replace(turn, seconds=0.0) for turn in turns)


def told(samples: Sequence[Sample]) -> str:
    """All that is said of samples; NaN is no number that equals itself."""
    return repr(samples)


def test_the_embedded_engine_plays_the_same_to_the_bit_however_long_tools_take(folder):
    first, second = generated(embedded(folder)), generated(embedded(folder))
    assert told(first) == told(second)
    assert len(first) == 15
    assert max(len(sample.turns) for sample in first) > 2
    for sample in first:
        check(sample)


@torch.no_grad()
def test_logprobs_of_turns_are_those_of_a_forward_pass_over_the_whole(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    for sample in generated(embedded(folder, max_batch_sequences=64)):
        ids = torch.tensor([[*sample.prompt.token_ids, *sample.token_ids]])
        logits = model(ids).logits[0, len(sample.prompt.token_ids) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(sample.token_ids)[:, None])[:, 0]
        chosen = torch.tensor(sample.loss_mask)
        torch.testing.assert_close(
            torch.tensor(sample.logprobs)[chosen], expected[chosen], rtol=0, atol=1e-5
        )


def test_a_random_episode_that_is_interrupted_draws_the_same_tokens(folder):
    whole = by_key(generated(embedded(folder)))
    engine, first = embedded(folder), []
    for sample in engine.generate(
        [Request(prompt, index) for prompt in PROMPTS for index in range(5)], LIMITS, seed=7
    ):
        first.append(sample)
        engine.interrupt()
    begun = [sample for sample in first if sample.finish_reason == "aborted"]
    assert begun
    rest = generated(embedded(folder), [Request(s.prompt, s.index, s) for s in begun])
    for sample in rest:
        assert sample.token_ids == whole[sample.prompt.uid, sample.index].token_ids
