"""Responses that are stopped on real servers, and go on under other weights."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.engine import Request
from megatron_stare.errors import UserError
from tests.models import hf_tensors
from tests.requests_of import requests_of
from tests.sglang.servers import needs_servers
from tests.sglang.test_engine import PROMPTS, open_engine, transformers_logprobs

pytestmark = needs_servers

LONG = SamplingConfig(temperature=0.5, max_response_tokens=400)


def stop_after(engine, samples, num_finished):
    """The samples of a call that is interrupted when so many have finished."""
    found = []
    for sample in samples:
        found.append(sample)
        if len(found) == num_finished:
            engine.interrupt()
    return found


def test_what_is_stopped_comes_as_it_stands_and_goes_on_under_new_weights(
    servers, model, trained, tmp_path
):
    with open_engine(servers, model, tmp_path) as (engine, messages):
        engine.update_weights(hf_tensors(model).items(), 1)
        first = stop_after(engine, engine.generate(requests_of(PROMPTS, 8), LONG, seed=0), 1)
        assert len(first) == 48
        stopped = [sample for sample in first if sample.finish_reason == "aborted"]
        assert len(stopped) > 30

        engine.update_weights(hf_tensors(trained).items(), 2)
        again = [Request(sample.prompt, sample.index, sample) for sample in stopped]
        second = list(engine.generate(again, LONG, seed=1))
        assert messages == []
    assert {(s.prompt.uid, s.index) for s in second} == {(s.prompt.uid, s.index) for s in stopped}
    networks = [
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (model, trained)
    ]
    begun = {(s.prompt.uid, s.index): s for s in stopped}
    for sample in second[:12]:
        part = begun[sample.prompt.uid, sample.index]
        length = len(part.token_ids)
        assert sample.finish_reason in ("stop", "length")
        assert len(sample.token_ids) <= 400
        assert sample.token_ids[:length] == part.token_ids
        assert sample.logprobs[:length] == part.logprobs
        assert sample.weight_versions == (1,) * length + (2,) * (len(sample.token_ids) - length)
        old, new = (transformers_logprobs(n, sample, temperature=0.5) for n in networks)
        expected = torch.cat([old[:length], new[length:]])
        torch.testing.assert_close(torch.tensor(sample.logprobs), expected, atol=1e-4, rtol=0)


def test_what_was_not_sent_does_not_come(servers, model, tmp_path):
    with open_engine(servers, model, tmp_path, max_requests=3) as (engine, messages):
        engine.update_weights(hf_tensors(model).items(), 1)
        samples = engine.generate(requests_of(PROMPTS, 8), LONG, seed=0)
        engine.interrupt()  # Nothing is asked for before the first `next`.
        found = stop_after(engine, samples, 1)
        # Each that ends before the loop above sees the first one lets another be sent.
        assert 1 <= len(found) < 24
        assert len(list(engine.generate(requests_of(PROMPTS, 1), LONG, seed=1))) == 6
        assert messages == []


def test_what_does_not_come_is_named_and_sent_to_another_server(servers, model, tmp_path):
    url, pid = next(iter(servers.pids.items()))
    sampling = SamplingConfig(max_response_tokens=8)
    config = {"stall_deadline_s": 4.0, "health_deadline_s": 2.0}
    with open_engine(servers, model, tmp_path, **config) as (engine, messages):
        engine.update_weights(hf_tensors(model).items(), 1)
        os.kill(pid, signal.SIGSTOP)
        try:
            samples = list(engine.generate(requests_of(PROMPTS, 2), sampling, seed=0))
        finally:
            os.kill(pid, signal.SIGCONT)
    assert len({(s.prompt.uid, s.index) for s in samples}) == len(samples) == 12
    assert "no sample came for rollout.servers.stall_deadline_s=4 s; waiting for " in messages[0]
    assert f"at {url} since 4 s" in messages[0]
    assert messages[0].endswith("all of it is sent again")
    assert messages[1] == f"{url}: nothing comes from it; its requests go to other servers"


def test_a_run_from_which_nothing_comes_stops_and_says_what_it_waited_for(servers, model, tmp_path):
    sampling = SamplingConfig(max_response_tokens=8)
    config = {"stall_deadline_s": 2.0, "health_deadline_s": 30.0}
    with open_engine(servers, model, tmp_path, **config) as (engine, _):
        engine.update_weights(hf_tensors(model).items(), 1)
        for pid in servers.pids.values():
            os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(UserError, match=r"no sample came .* sample 0 of prompt p\d .*not"):
                list(engine.generate(requests_of(PROMPTS, 1), sampling, seed=0))
        finally:
            for pid in servers.pids.values():
                os.kill(pid, signal.SIGCONT)
