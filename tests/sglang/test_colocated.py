"""Servers that take turns with the trainer in holding memory. On a CPU they hold on to it: what is
seen here is who is asked for what, and when."""

from __future__ import annotations

import re

import httpx

from megatron_stare.config.rollout import SamplingConfig
from tests.e2e.programs import make_workspace, metrics_of, succeed
from tests.models import hf_tensors
from tests.requests_of import requests_of
from tests.sglang.servers import needs_servers
from tests.sglang.test_engine import PROMPTS, open_engine

pytestmark = needs_servers

SHORT = SamplingConfig(max_response_tokens=8)


def turns(servers) -> dict[str, list[str]]:
    """What each server's log shows of turns and weights, in order."""
    pattern = r"POST /(release|resume|update_weights|continue)_?\w* HTTP"
    return {url: re.findall(pattern, servers.log_of(url)) for url in servers.urls}


def test_weights_come_between_two_halves_of_the_memory(servers, trained, tmp_path):
    before = turns(servers)
    with open_engine(servers, trained, tmp_path) as (engine, messages):
        engine.give_up_memory()
        engine.update_weights(hf_tensors(trained).items(), 1)
        engine.take_memory_back()
        for version in (2, 3):
            assert len(list(engine.generate(requests_of(PROMPTS, 2), SHORT, seed=0))) == 12
            engine.give_up_memory()
            engine.update_weights(hf_tensors(trained).items(), version)
            engine.take_memory_back()
        engine.take_memory_back()  # There is nothing left to take: nobody is asked.
        assert messages == []
    turn = ["release", "resume", "update_weights", "continue", "resume"]
    for url, seen in turns(servers).items():
        assert seen[len(before[url]) :] == turn * 3


def test_a_server_that_came_up_again_is_not_asked_for_what_it_has(servers, trained, tmp_path):
    """It would end. That it came up again shows in the version of its weights."""
    with open_engine(servers, trained, tmp_path) as (engine, _):
        engine.update_weights(hf_tensors(trained).items(), 1)
        before = turns(servers)
        engine.give_up_memory()
        new_version = {"new_version": "default", "abort_all_requests": False}
        url = servers.urls[0]
        httpx.post(f"{url}/update_weight_version", json=new_version).raise_for_status()
        engine.update_weights(hf_tensors(trained).items(), 2)
        engine.take_memory_back()
        assert len(list(engine.generate(requests_of(PROMPTS, 2), SHORT, seed=0))) == 12
    seen = {server: turns(servers)[server][len(log) :] for server, log in before.items()}
    assert sorted(turn.count("resume") for turn in seen.values()) == [0, 2]
    # It did give its memory up, in this test: leave it as it was.
    httpx.post(f"{url}/resume_memory_occupation", json={"tags": None}).raise_for_status()


def test_a_run_takes_turns(session_servers, tmp_path):
    session_servers.start()
    before = turns(session_servers)
    workspace = make_workspace(tmp_path)
    succeed(
        *("train", workspace / "train.yaml", "rollout.engine=sglang", "rollout.replay_path=null"),
        *("rollout.dynamic_sampling=false", "rollout.max_response_tokens=24"),
        *("rollout.colocated=true", f"rollout.servers.registry={session_servers.registry}"),
    )
    assert [metrics["rollout/completed"] for metrics in metrics_of(workspace / "run")] == [4, 4]
    for url, seen in turns(session_servers).items():
        turn = ["release", "resume", "update_weights", "continue", "resume"]
        assert seen[len(before[url]) :] == turn * 3
