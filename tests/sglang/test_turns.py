"""Episodes with tools on real servers: tokens, log-probs, interruptions, a server that dies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.config.workflow import WorkflowConfig
from megatron_stare.engines.engine import Request
from megatron_stare.rollout.workflow.playing import PlayingEngine
from megatron_stare.rollout.workflow.tool_use import ToolUse
from megatron_stare.rollout.workflow.toolbox import Toolbox
from megatron_stare.types import Sample
from tests.models import hf_tensors
from tests.requests_of import requests_of
from tests.sglang.servers import needs_servers
from tests.sglang.test_engine import PROMPTS, open_engine, transformers_logprobs
from tests.unit.rollout.workflow.episodes import (
    STOP_IDS,
    TOKENIZER,
    Calculator,
    EveryTurnCalls,
    check,
)

pytestmark = needs_servers

SAMPLING = SamplingConfig(max_response_tokens=300, turns={"max_turns": 4})


def playing(engine, when_called=lambda: None) -> PlayingEngine:
    """On an engine; the tool tells how long the turn was that called it."""

    def answer(expression: str) -> str:
        when_called()
        return f"[{expression}]"

    tools = Toolbox(
        {"calculator": Calculator(answer)}, deadline_s=5.0, max_attempts=1, report=print
    )
    config = WorkflowConfig(format="hermes")
    return PlayingEngine(
        engine, ToolUse(config, TOKENIZER, EveryTurnCalls(), ["calculator"], STOP_IDS), tools
    )


def assert_logprobs(samples: Sequence[Sample], *folders) -> None:
    """Each of its version's weights, of all that the policy chose; folders by version from 1."""
    networks = [AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32) for f in folders]
    for sample in samples:
        found = torch.tensor(sample.logprobs)
        for version, network in enumerate(networks, start=1):
            chosen = torch.tensor(sample.weight_versions) == version
            expected = transformers_logprobs(network, sample, temperature=1.0)
            torch.testing.assert_close(found[chosen], expected[chosen], atol=1e-4, rtol=0)


def test_the_trainer_finds_the_logprobs_that_servers_sampled_with(servers, trained, tmp_path):
    with open_engine(servers, trained, tmp_path) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 1)
        samples = list(playing(engine).generate(requests_of(PROMPTS, 4), SAMPLING, seed=0))
        assert messages == []
    assert len({(s.prompt.uid, s.index) for s in samples}) == len(samples) == 24
    assert max(len(sample.turns) for sample in samples) > 2
    for sample in samples:
        check(sample)
    assert_logprobs(samples, trained)


def test_episodes_go_on_under_new_weights_and_one_server_when_the_other_dies(
    servers, model, trained, tmp_path
):
    """Killed by the second call of a tool, between two turns."""
    url = next(iter(servers.pids))
    with open_engine(servers, model, tmp_path) as (engine, _):
        engine.update_weights(hf_tensors(model).items(), 1)
        first, player = [], playing(engine)
        for sample in player.generate(requests_of(PROMPTS, 4), SAMPLING, seed=0):
            first.append(sample)
            player.interrupt()
        assert len(first) == 24
        begun = [sample for sample in first if sample.finish_reason == "aborted"]
        assert begun

        engine.update_weights(hf_tensors(trained).items(), 2)
        calls: list[int] = []

        def kill() -> None:
            calls.append(1)
            if len(calls) == 2:
                servers.kill(url)

        again = [Request(sample.prompt, sample.index, sample) for sample in begun]
        rest = list(playing(engine, kill).generate(again, SAMPLING, seed=1))
    assert len(calls) > 2
    assert len({(s.prompt.uid, s.index) for s in rest}) == len(rest) == len(begun)
    ended = [sample for sample in first if sample.finish_reason != "aborted"] + rest
    for sample in ended:
        check(sample)
    assert_logprobs(ended, model, trained)
