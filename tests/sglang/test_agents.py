"""Agents whose model is on real servers: tokens that servers saw, log-probs of the trainer."""

from __future__ import annotations

from megatron_stare.config.agent import AgentConfig
from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.engine import Request
from megatron_stare.rollout.agents.chat_form import ChatForm
from megatron_stare.rollout.agents.playing import AgentEngine
from megatron_stare.types import Prompt
from tests.models import hf_tensors, make_tokenizer
from tests.sglang.servers import needs_servers
from tests.sglang.test_engine import open_engine
from tests.sglang.test_turns import assert_logprobs
from tests.unit.rollout.workflow.episodes import check

pytestmark = needs_servers

TOKENIZER = make_tokenizer()
SAMPLING = SamplingConfig(max_response_tokens=300, turns={"max_turn_tokens": 40})


def test_what_agents_had_servers_say_is_what_the_trainer_computes(servers, trained, tmp_path):
    """One of two servers dies while they talk."""
    form = ChatForm(TOKENIZER)
    config = AgentConfig(function="tests.e2e.agent_of_tests:talk", deadline_s=60.0)
    prompts = [Prompt(f"p{n}", f"f:{n}", f"{n} + 1?", (form.begins,), "") for n in range(6)]
    requests = [Request(prompt, index) for prompt in prompts for index in range(2)]
    with open_engine(servers, trained, tmp_path) as (engine, _):
        engine.update_weights(hf_tensors(trained).items(), 1)
        agents = AgentEngine(engine, config, form, TOKENIZER, max_attempts=2, report=print)
        samples = []
        for sample in agents.generate(requests, SAMPLING, seed=0):
            samples.append(sample)
            if len(samples) == 2:
                servers.kill_one()
    assert {(s.prompt.uid, s.index) for s in samples} == {r.key for r in requests}
    assert {sample.finish_reason for sample in samples} == {"stop"}
    for sample in samples:
        check(sample)
        assert [turn.kind for turn in sample.turns] == ["observation", "model"] * 2
    assert_logprobs(samples, trained)
