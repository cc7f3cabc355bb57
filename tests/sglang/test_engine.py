"""The engine on two real servers: exact tokens, exact log-probs, nothing left to defaults."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_stare.config.rollout import SamplingConfig, ServersConfig
from megatron_stare.data.tokenizer import load_tokenizer
from megatron_stare.engines.sglang.client import sampling_parameters
from megatron_stare.engines.sglang.engine import SGLangEngine
from megatron_stare.errors import UserError
from megatron_stare.ops.entropy_temperature import EntropyTemperature
from megatron_stare.rollout.stop_tokens import stop_token_ids
from megatron_stare.types import Prompt
from tests.models import EOS_ID, VOCAB_SIZE, hf_tensors
from tests.requests_of import requests_of
from tests.sglang.faults import BreakingProxy
from tests.sglang.servers import PYTHON, needs_servers

pytestmark = needs_servers

# Bytes that are no text: a trip through a string would change them.
PROMPTS = [
    Prompt(f"p{i}", f"file:{i}", "", (200, 255, 13 + i, 254, *range(40, 40 + 3 * i)), "")
    for i in range(6)
]
FEATURES = {
    "json_schema", "regex", "ebnf", "structural_tag", "custom_params", "watermark",
    "stream_interval", "skip_special_tokens", "spaces_between_special_tokens",
}  # fmt: skip
"""Fields of the server's that constrain or watermark text, or are about text and streams."""


@contextmanager
def open_engine(servers, folder, tmp_path, urls=None, moves_temperature=False, **config):
    if "registry" not in config:
        config["urls"] = tuple(urls or servers.urls)
    messages: list[str] = []
    tokenizer = load_tokenizer(folder)
    engine = SGLangEngine(
        ServersConfig(**config),
        folder,
        tokenizer,
        weights_dir=tmp_path / "weights",
        log_dir=tmp_path / "logs",
        report=messages.append,
        stop_ids=stop_token_ids(folder, tokenizer),
        moves_temperature=moves_temperature,
    )
    try:
        yield engine, messages
    finally:
        engine.close()


def test_tokens_and_logprobs_are_those_of_the_new_weights(servers, trained, tmp_path):
    sampling = SamplingConfig(temperature=0.8, max_response_tokens=24)
    with open_engine(servers, trained, tmp_path) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 7)
        samples = list(engine.generate(requests_of(PROMPTS, 4), sampling, seed=0))
    assert {(s.prompt.uid, s.index) for s in samples} == {
        (p.uid, i) for p in PROMPTS for i in range(4)
    }
    assert len(samples) == 24
    assert messages == []
    for sample in samples:
        assert sample.weight_versions == (7,) * len(sample.token_ids)
        assert sample.seconds > 0
    assert_logprobs_of(trained, samples, temperature=0.8)


def test_tokens_have_the_temperatures_that_the_servers_drew_them_at(servers, trained, tmp_path):
    """By the rule, of logits that are recomputed here; log-probs are at these temperatures."""
    rule = EntropyTemperature(pivot=1.5, above=0.3, below=0.3, tau=0.4)
    sampling = SamplingConfig(temperature=0.8, max_response_tokens=24)
    requests = [replace(request, rule=rule) for request in requests_of(PROMPTS, 4)]
    with open_engine(servers, trained, tmp_path, moves_temperature=True) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 7)
        samples = list(engine.generate(requests, sampling, seed=0))
        plain = list(engine.generate(requests_of(PROMPTS[:1], 1), sampling, seed=0))
    assert messages == []
    assert len(samples) == 24
    assert plain[0].temperatures == ()
    network = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32)
    found = []
    for sample in samples:
        own = torch.tensor(sample.temperatures)
        base = transformers_distributions(network, sample, 0.8)
        torch.testing.assert_close(own, 0.8 * rule.factors(base), atol=2e-3, rtol=0)
        expected = transformers_logprobs(network, sample, own[:, None])
        torch.testing.assert_close(torch.tensor(sample.logprobs), expected, atol=1e-4, rtol=0)
        found += sample.temperatures
    assert max(found) - min(found) > 0.03


def test_truncated_sampling_keeps_the_logprobs_of_the_whole_distribution(
    servers, trained, tmp_path
):
    sampling = SamplingConfig(top_k=3, top_p=0.9, max_response_tokens=8)
    with open_engine(servers, trained, tmp_path) as (engine, _):
        engine.update_weights(hf_tensors(trained).items(), 1)
        samples = list(engine.generate(requests_of(PROMPTS[:2], 8), sampling, seed=0))
    network = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32)
    for sample in samples:
        expected = transformers_logprobs(network, sample, temperature=1.0)
        torch.testing.assert_close(torch.tensor(sample.logprobs), expected, atol=1e-4, rtol=0)
        assert max(transformers_ranks(network, sample)) < 3


def test_responses_end_at_a_stop_token_or_at_the_limit(servers, trained, tmp_path):
    sampling = SamplingConfig(temperature=1.5, max_response_tokens=200)
    with open_engine(servers, trained, tmp_path) as (engine, _):
        engine.update_weights(hf_tensors(trained).items(), 1)
        samples = list(engine.generate(requests_of(PROMPTS[:4], 8), sampling, seed=0))
    assert {sample.finish_reason for sample in samples} == {"stop", "length"}
    for sample in samples:
        *body, last = sample.token_ids
        assert EOS_ID not in body
        assert (last == EOS_ID) == (sample.finish_reason == "stop")
        assert sample.finish_reason == "stop" or len(sample.token_ids) == 200


def test_no_default_of_the_server_applies(servers, trained, tmp_path):
    """They are such that samples would be alike, short, or repeated."""
    sampling = SamplingConfig(max_response_tokens=6)
    with open_engine(servers, trained, tmp_path) as (engine, _):
        engine.update_weights(hf_tensors(trained).items(), 1)
        samples = list(engine.generate(requests_of(PROMPTS[:1], 256), sampling, seed=0))
    assert len({sample.token_ids[0] for sample in samples}) > 40
    network = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32)
    logits = network(torch.tensor([PROMPTS[0].token_ids])).logits[0, -1]
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum().item()
    surprisals = torch.tensor([-sample.logprobs[0] for sample in samples])
    error = surprisals.std().item() / 16
    assert abs(surprisals.mean().item() - entropy) < 4 * error


def test_every_sampling_parameter_that_a_server_knows_is_sent():
    asked = (
        "import json, msgspec; from sglang.srt.sampling.sampling_params import SamplingParams as S;"
        "print(json.dumps([f.name for f in msgspec.structs.fields(S)]))"
    )
    done = subprocess.run([PYTHON, "-c", asked], capture_output=True, text=True, check=True)
    known = json.loads(done.stdout.splitlines()[-1])
    # Behind the parameters come fields that the server fills in by itself.
    known = set(known[: known.index("stop_strs")])
    sent = sampling_parameters(SamplingConfig(), [EOS_ID], max_new_tokens=9, seed=1).keys()
    assert known - FEATURES == sent


def test_the_servers_share_the_work(servers, trained, tmp_path):
    before = num_generated(servers)
    with open_engine(servers, trained, tmp_path) as (engine, _):
        engine.update_weights(hf_tensors(trained).items(), 1)
        sampling = SamplingConfig(max_response_tokens=16)
        assert len(list(engine.generate(requests_of(PROMPTS, 8), sampling, seed=0))) == 48
    after = num_generated(servers)
    shares = [after[log] - before[log] for log in before]
    assert sum(shares) == 48
    assert min(shares) > 12


def test_no_more_requests_than_allowed_are_under_way(servers, trained, tmp_path):
    proxies = [BreakingProxy(url) for url in servers.urls]
    urls = [proxy.url for proxy in proxies]
    with open_engine(servers, trained, tmp_path, urls, max_requests=2) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 1)
        sampling = SamplingConfig(max_response_tokens=4)
        assert len(list(engine.generate(requests_of(PROMPTS, 4), sampling, seed=0))) == 24
        assert messages == []
    assert [proxy.peak for proxy in proxies] == [2, 2]
    for proxy in proxies:
        proxy.close()


@pytest.mark.parametrize("token", [VOCAB_SIZE, -1])
def test_a_token_outside_the_vocabulary_is_refused_before_it_is_sent(
    servers, trained, tmp_path, token
):
    before = num_generated(servers)
    with open_engine(servers, trained, tmp_path) as (engine, _):
        engine.update_weights(hf_tensors(trained).items(), 1)
        bad = Prompt("bad", "file:3", "", (5, token), "")
        with pytest.raises(UserError, match=rf"file:3: .* expected 0 to {VOCAB_SIZE - 1}"):
            next(engine.generate(requests_of([PROMPTS[0], bad], 1), SamplingConfig(), seed=0))
    assert num_generated(servers) == before


def test_a_prompt_too_long_for_the_server_is_an_error_that_says_so(servers, trained, tmp_path):
    with open_engine(servers, trained, tmp_path) as (engine, _):
        engine.update_weights(hf_tensors(trained).items(), 1)
        long = Prompt("long", "file:9", "", (5,) * 600, "")
        sampling = SamplingConfig(max_response_tokens=4)
        start = time.monotonic()
        with pytest.raises(
            UserError, match=r"sample 0 of prompt long \(file:9\): .*refused with status 400"
        ):
            list(engine.generate(requests_of([*PROMPTS, long], 1), sampling, seed=0))
        assert time.monotonic() - start < 30


def test_a_response_that_the_server_has_no_room_for_is_an_error_that_says_so(
    servers, trained, tmp_path
):
    """It would cut it short and call that its length; the context is of 512 tokens."""
    with open_engine(servers, trained, tmp_path) as (engine, _):
        engine.update_weights(hf_tensors(trained).items(), 1)
        prompt = Prompt("p", "file:1", "", (5,) * 400, "")
        sampling = SamplingConfig(temperature=0.3, max_response_tokens=200)
        with pytest.raises(UserError, match=r"--context-length|refused with status 400"):
            list(engine.generate(requests_of([prompt], 4), sampling, seed=0))


def test_closing_the_iterator_stops_what_runs_on_the_servers(servers, trained, tmp_path):
    with open_engine(servers, trained, tmp_path) as (engine, _):
        engine.update_weights(hf_tensors(trained).items(), 1)
        samples = engine.generate(
            requests_of(PROMPTS, 8), SamplingConfig(max_response_tokens=480), seed=0
        )
        next(samples)
        samples.close()
        for url in servers.urls:
            wait_until_idle(url)
        again = engine.generate(
            requests_of(PROMPTS[:1], 2), SamplingConfig(max_response_tokens=4), seed=1
        )
        assert len(list(again)) == 2


def assert_logprobs_of(folder, samples, temperature=1.0):
    """Samples' log-probs are those of transformers on a folder's weights."""
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for sample in samples:
        expected = transformers_logprobs(network, sample, temperature)
        torch.testing.assert_close(torch.tensor(sample.logprobs), expected, atol=1e-4, rtol=0)


def transformers_logprobs(network, sample, temperature):
    logprobs = transformers_distributions(network, sample, temperature)
    return logprobs.gather(-1, torch.tensor(sample.token_ids)[:, None])[:, 0]


def transformers_distributions(network, sample, temperature):
    """Of all tokens, where each of the sample was drawn."""
    start = len(sample.prompt.token_ids)
    ids = torch.tensor([[*sample.prompt.token_ids, *sample.token_ids]])
    with torch.no_grad():
        return (network(ids).logits[0, start - 1 : -1] / temperature).log_softmax(-1)


def transformers_ranks(network, sample):
    """How many tokens were likelier than each that was drawn."""
    start = len(sample.prompt.token_ids)
    ids = torch.tensor([[*sample.prompt.token_ids, *sample.token_ids]])
    with torch.no_grad():
        logits = network(ids).logits[0, start - 1 : -1]
    return (logits > logits.gather(-1, ids[0, start:, None])).sum(-1).tolist()


def num_generated(servers):
    """Requests that each server's log shows."""
    logs = [f"{url.removeprefix('http://').replace(':', '_')}.log" for url in servers.urls]
    return {log: (servers.registry / log).read_text().count("POST /generate HTTP") for log in logs}


def wait_until_idle(url, timeout_s=20):
    """A server empties its cache only when nothing runs."""
    deadline = time.monotonic() + timeout_s
    while httpx.post(f"{url}/flush_cache", timeout=10).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
