"""Requests through a real sglang-router: the same samples; the engine says who gets requests."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time

import httpx
import pytest

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.sglang.commands import router_command
from megatron_stare.engines.sglang.ports import free_ports
from megatron_stare.errors import UserError
from tests.models import hf_tensors
from tests.requests_of import requests_of
from tests.sglang.faults import frozen
from tests.sglang.servers import ROUTER_PYTHON, needs_servers, one_server, wait_until, workers_of
from tests.sglang.test_engine import PROMPTS, num_generated, open_engine
from tests.sglang.test_faults import LONG, QUICK, SHORT, assert_complete

pytestmark = needs_servers


class RouterProcess:
    """A router as `serve` starts it, at a URL that it keeps over restarts."""

    def __init__(self, folder):
        self._folder = folder
        self._port, self._metrics_port = free_ports("127.0.0.1", 2)
        self.url = f"http://127.0.0.1:{self._port}"
        self.process = None

    def start(self):
        options = one_server(self._folder, self._folder, servers=0, router_python=ROUTER_PYTHON)
        with (self._folder / "router.log").open("ab") as log:
            command = router_command(options, self._port, self._metrics_port)
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        wait_until(self.is_up, timeout_s=60)

    def is_up(self):
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=2).is_success
        return False

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def router(tmp_path):
    """One that is up and knows no server."""
    router = RouterProcess(tmp_path)
    router.start()
    try:
        yield router
    finally:
        router.kill()


def test_it_shares_requests_out_and_changes_no_answer(servers, trained, router, tmp_path):
    before = num_generated(servers)
    with open_engine(servers, trained, tmp_path, router=router.url) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 1)
        assert workers_of(router.url) == servers.urls
        sampling = SamplingConfig(max_response_tokens=40)
        samples = list(engine.generate(requests_of(PROMPTS, 8), sampling, seed=0))
        time.sleep(7)  # A step of the trainer's, longer than servers keep idle connections.
        assert_complete(engine.generate(requests_of(PROMPTS, 8), SHORT, seed=1), 8, version=1)
        assert messages == []
    assert_complete(samples, 8, version=1, of=(trained, sampling))
    # The servers' own defaults, such as three tokens, top_k 1, and token 65, do not apply.
    assert max(len(sample.token_ids) for sample in samples) == 40
    assert len({sample.token_ids[:3] for sample in samples}) > 24
    after = num_generated(servers)
    assert min(after[log] - before[log] for log in before) > 0


def test_without_the_router_requests_go_straight_to_the_servers(servers, trained, router, tmp_path):
    config = QUICK | {"router": router.url}
    with open_engine(servers, trained, tmp_path, **config) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 1)
        generating = engine.generate(requests_of(PROMPTS, 8), LONG, seed=0)
        samples = [next(generating)]
        router.kill()
        samples += generating
        assert_complete(samples, 8, version=1, of=(trained, LONG))
        assert messages[0].startswith(f"{router.url}: no answer to /generate")
        assert re.match(
            rf"router {router.url}: no answer to /workers .*; "
            "until the next weights, requests go straight to the servers",
            messages[1],
        )
        engine.update_weights(hf_tensors(trained).items(), 2)
        assert_complete(engine.generate(requests_of(PROMPTS, 1), SHORT, seed=1), 1, version=2)
        assert len(messages) == 2

        router.start()
        engine.update_weights(hf_tensors(trained).items(), 3)
        assert messages[2:] == [f"router {router.url}: takes requests again"]
        assert workers_of(router.url) == servers.urls
        assert_complete(engine.generate(requests_of(PROMPTS, 1), SHORT, seed=2), 1, version=3)


def test_a_router_that_was_never_there_is_reported_once(servers, trained, tmp_path):
    config = {"router": "http://127.0.0.1:9"}
    with open_engine(servers, trained, tmp_path, **config) as (engine, messages):
        for version in (1, 2):
            engine.update_weights(hf_tensors(trained).items(), version)
            samples = engine.generate(requests_of(PROMPTS, 1), SHORT, seed=0)
            assert_complete(samples, 1, version=version)
        (message,) = messages
        assert message.startswith("router http://127.0.0.1:9: no answer to /workers")


def test_a_server_that_hangs_behind_it_is_taken_out_and_put_back(
    servers, trained, router, tmp_path
):
    url, pid = next(iter(servers.pids.items()))
    (other,) = set(servers.urls) - {url}
    config = QUICK | {"router": router.url}
    with open_engine(servers, trained, tmp_path, **config) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 1)
        generating = engine.generate(requests_of(PROMPTS, 8), LONG, seed=0)
        samples = [next(generating)]
        with frozen(pid):
            samples += generating
            assert workers_of(router.url) == [other]
        assert_complete(samples, 8, version=1, of=(trained, LONG))
        silent = "no answer to /health_generate within 6 s"
        outs = [message for message in messages if "out until the next weights" in message]
        assert outs == [f"{url}: out until the next weights: {silent}"], messages
        engine.update_weights(hf_tensors(trained).items(), 2)
        assert workers_of(router.url) == servers.urls
        assert_complete(engine.generate(requests_of(PROMPTS, 4), SHORT, seed=1), 4, version=2)


def test_a_server_of_other_weights_behind_it_gives_no_sample(
    servers, model, trained, router, tmp_path
):
    config = QUICK | {"router": router.url}
    with open_engine(servers, trained, tmp_path, **config) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 1)
        url, other = servers.urls
        body = {"model_path": str(model), "weight_version": "old"}
        httpx.post(f"{url}/update_weights_from_disk", json=body, timeout=60).raise_for_status()
        samples = engine.generate(requests_of(PROMPTS, 8), SHORT, seed=0)
        assert_complete(samples, 8, version=1, of=(trained, SHORT))
        assert workers_of(router.url) == [other]
        problem = "has weights of version 'old', expected '1'"
        assert f"{url}: out until the next weights: {problem}" in messages


def test_defaults_that_a_router_lets_through_are_refused(servers, trained, router, tmp_path):
    """The servers of these tests have some; `stop_token_ids` and the like are overridden."""
    with open_engine(servers, trained, tmp_path, router=router.url) as (engine, _):
        routing = engine._pool._routing
        server = engine._pool.servers[0]
        info = {"preferred_sampling_params": {"top_k": 1, "logit_bias": {"65": 90.0}}}
        with pytest.raises(UserError, match=r"--preferred-sampling-params for logit_bias"):
            routing.check_defaults(server, info)
