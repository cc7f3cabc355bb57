"""A server's part of temperatures by entropy, as it is sent, and what comes back of it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import astuple
from types import SimpleNamespace

import pytest
import torch

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.sglang.client import sampling_parameters
from megatron_stare.engines.sglang.tempering import (
    Tempering,
    processor,
    request_fields,
    temperatures_of,
)
from megatron_stare.ops.entropy_temperature import EntropyTemperature

RULE = EntropyTemperature(pivot=0.5, above=0.3, below=2.0, tau=0.4)
OTHER = EntropyTemperature(pivot=-0.5, above=0.3, below=2.0, tau=0.1)
LOGITS = 2 * torch.randn(4, 50, generator=torch.Generator().manual_seed(0))


def server_request(*, prefilled: int = 9, of: int = 9) -> SimpleNamespace:
    """What the processor sees of the server's own request."""
    tokens = list(range(of))
    return SimpleNamespace(
        extend_end=prefilled, full_untruncated_fill_ids=tokens, customized_info=None
    )


def params(rule: EntropyTemperature, temperature: float, request: SimpleNamespace) -> dict:
    sent = sampling_parameters(
        SamplingConfig(temperature=temperature), [2], max_new_tokens=4, seed=1, rule=rule
    )
    custom = json.loads(json.dumps(sent["custom_params"]))  # As it crosses the wire.
    return {**custom, "__req__": request}


def test_logits_are_such_that_the_server_s_temperature_makes_them_those_of_the_rule():
    requests = [server_request() for _ in LOGITS]
    rules = [(RULE, 1.0), (RULE, 0.7), (OTHER, 1.0), (RULE, 1.0)]
    given = [params(*rule, request) for rule, request in zip(rules, requests, strict=True)]
    changed = Tempering()(LOGITS.clone(), given)
    for row, ((rule, temperature), request) in enumerate(zip(rules, requests, strict=True)):
        base = (LOGITS[row] / temperature).log_softmax(-1)
        expected = temperature * rule.factors(base[None])[0]
        ((said, largest),) = request.customized_info["tempering"]
        assert said == pytest.approx(expected.item())
        found = (changed[row] / temperature).log_softmax(-1)
        torch.testing.assert_close(found, (LOGITS[row] / expected).log_softmax(-1))
        assert largest == pytest.approx(found.max().item(), abs=1e-6)


def test_of_a_part_of_a_prompt_nothing_is_said():
    request = server_request(prefilled=8)
    Tempering()(LOGITS[:1].clone(), [params(RULE, 1.0, request)])
    assert request.customized_info is None


def test_what_is_sent_works_where_nothing_of_this_package_is_installed():
    """As the server loads it: pickle alone, torch beside it."""
    program = """
from __future__ import annotations
import json, pickle, sys
from types import SimpleNamespace
sys.modules["megatron_stare"] = None
import torch
kind = pickle.loads(bytes.fromhex(json.loads(sys.stdin.readline())["callable"]))
request = SimpleNamespace(extend_end=1, full_untruncated_fill_ids=[0], customized_info=None)
params = {"temperature": 1.0, "rule": json.loads(sys.stdin.readline()), "__req__": request}
kind()(torch.zeros(1, 5), [params])
print(request.customized_info["tempering"][0][0])
"""
    given = f"{processor()}\n{json.dumps(astuple(RULE))}\n"
    done = subprocess.run(
        [sys.executable, "-c", program], input=given, capture_output=True, text=True, check=True
    )
    base = torch.zeros(1, 5).log_softmax(-1)
    assert float(done.stdout) == pytest.approx(RULE.factors(base).item())


def test_without_a_rule_a_request_is_as_it_was():
    sent = sampling_parameters(SamplingConfig(), [2], max_new_tokens=4, seed=1)
    assert "custom_params" not in sent
    assert request_fields(sent) == {}
    assert temperatures_of({}, sent, 3) == ()


SENT = sampling_parameters(SamplingConfig(), [2], max_new_tokens=4, seed=1, rule=RULE)


def test_temperatures_are_those_of_the_tokens_beside_them():
    meta = {
        "tempering": [[0.9, -0.5], [1.1, -1.0]],
        "output_top_logprobs": [[[-0.5, 7, None]], [[-1.001, 8, None]]],
    }
    assert temperatures_of(meta, SENT, 2) == (0.9, 1.1)


@pytest.mark.parametrize(
    "meta",
    [
        {"tempering": [[0.9, -0.5]], "output_top_logprobs": [[[-0.7, 7, None]]]},
        {"tempering": [], "output_top_logprobs": [[[-0.7, 7, None]]]},
        {"output_top_logprobs": [[[-0.7, 7, None]]]},
    ],
)
def test_temperatures_of_other_tokens_are_no_answer(meta):
    with pytest.raises((KeyError, ValueError)):
        temperatures_of(meta, SENT, 1)
