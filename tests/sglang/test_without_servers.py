"""All servers end: the last of these tests, for the next would have to start them again."""

from __future__ import annotations

import signal
import time

import pytest

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.errors import UserError
from tests.models import hf_tensors
from tests.requests_of import requests_of
from tests.sglang.servers import is_alive, needs_servers
from tests.sglang.test_engine import PROMPTS, open_engine

pytestmark = needs_servers


def test_without_any_server_the_run_ends_and_serve_ends_its_own(servers, trained, tmp_path):
    """A server that is told to end finishes what it has; the rest of the requests has none left."""
    pids, own = servers.pids, servers.own
    with open_engine(servers, trained, tmp_path, max_requests=4) as (engine, _):
        engine.update_weights(hf_tensors(trained).items(), 1)
        longer = SamplingConfig(temperature=0.3, max_response_tokens=450)
        generating = engine.generate(requests_of(PROMPTS, 8), longer, seed=0)
        next(generating)
        # A terminal that closes, and somebody who cannot wait.
        printed = servers.stop(signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
        gone, start = "|".join(pids), time.monotonic()
        with pytest.raises(UserError, match=f"no SGLang server is left to generate: .*({gone})"):
            list(generating)
        assert time.monotonic() - start < 60
    assert servers.pids == {}
    for url in own:
        assert f"{url}\tserver\tpid {pids[url]}" in printed
        assert not is_alive(pids[url])
