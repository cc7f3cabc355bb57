"""Servers that die or fall silent while they generate: no sample is lost, none comes twice."""

from __future__ import annotations

import os
import signal

import pytest

from megatron_stare.config import SamplingConfig
from megatron_stare.errors import UserError
from tests.models import hf_tensors
from tests.requests_of import requests_of
from tests.sglang.servers import is_alive, needs_servers
from tests.sglang.test_engine import PROMPTS, open_engine

pytestmark = needs_servers

LONG = SamplingConfig(temperature=0.3, max_response_tokens=300)


def test_a_silent_server_loses_its_requests_to_the_other(servers, model, tmp_path):
    url, pid = next(iter(servers.pids.items()))
    config = {"request_deadline_s": 6.0, "health_deadline_s": 2.0}
    with open_engine(servers, model, tmp_path, **config) as (engine, messages):
        engine.update_weights(hf_tensors(model).items(), 1)
        os.kill(pid, signal.SIGSTOP)
        try:
            sampling = SamplingConfig(max_response_tokens=8)
            samples = list(engine.generate(requests_of(PROMPTS, 2), sampling, seed=0))
        finally:
            os.kill(pid, signal.SIGCONT)
        assert_complete(samples, 2)
        assert messages == [
            f"{url}: no answer to /generate within 6 s; its requests go to other servers",
            f"{url}: out until the next weights: no answer to /health_generate within 2 s",
        ]
        engine.update_weights(hf_tensors(model).items(), 2)
        assert_complete(list(engine.generate(requests_of(PROMPTS, 2), sampling, seed=1)), 2)
        assert len(messages) == 2


def test_the_other_server_finishes_what_a_killed_one_had_begun(servers, model, tmp_path):
    with open_engine(servers, model, tmp_path) as (engine, messages):
        engine.update_weights(hf_tensors(model).items(), 1)
        generating = engine.generate(requests_of(PROMPTS, 8), LONG, seed=0)
        samples = [next(generating)]
        url = servers.kill_one()
        samples += generating
        assert_complete(samples, 8)
        assert url in messages[0]
        assert "its requests go to other servers" in messages[0]
        assert "out until the next weights" in messages[-1]

        engine.update_weights(hf_tensors(model).items(), 2)
        assert f"{url}: out until the next weights: did not take weights 2" in messages[-1]
        assert_complete(list(engine.generate(requests_of(PROMPTS, 1), LONG, seed=1)), 1)


def test_serve_ends_its_servers_and_a_run_that_needs_them_says_so(session_servers, model, tmp_path):
    """After the test before there is one, which saves the time of a start."""
    pids = session_servers.pids
    with open_engine(session_servers, model, tmp_path) as (engine, _):
        engine.update_weights(hf_tensors(model).items(), 1)
        assert_complete(list(engine.generate(requests_of(PROMPTS, 1), LONG, seed=0)), 1)
        printed = session_servers.stop()
        assert session_servers.pids == {}
        for url, pid in pids.items():
            assert f"{url}\tpid {pid}" in printed
            assert not is_alive(pid)
        gone = "|".join(pids)
        with pytest.raises(UserError, match=f"no SGLang server is left to generate: .*({gone})"):
            list(engine.generate(requests_of(PROMPTS, 1), LONG, seed=0))


def assert_complete(samples, num_samples):
    expected = sorted((p.uid, i) for p in PROMPTS for i in range(num_samples))
    assert sorted((s.prompt.uid, s.index) for s in samples) == expected
    assert {sample.finish_reason for sample in samples} <= {"stop", "length"}
