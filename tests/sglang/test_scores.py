"""Scores on real servers: log-probs of given tokens, those of the trainer's weights."""

from __future__ import annotations

import pytest
import torch

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.engine import Score
from megatron_stare.errors import UserError
from tests.models import VOCAB_SIZE, hf_tensors
from tests.requests_of import requests_of
from tests.sglang.faults import BreakingProxy
from tests.sglang.servers import needs_servers
from tests.sglang.test_engine import PROMPTS, num_generated, open_engine
from tests.unit.engines.test_scoring import SCORES, teacher_forced

pytestmark = needs_servers


def assert_scores(folder, scores, found):
    assert len(found) == len(scores)
    for score, logprobs in zip(scores, found, strict=True):
        expected = teacher_forced(folder, score)
        torch.testing.assert_close(torch.tensor(logprobs), expected, atol=1e-4, rtol=0)


def test_servers_score_as_transformers_under_the_weights_that_they_were_given(
    servers, model, trained, tmp_path
):
    """Asked twice, and under two weights: what a cache holds changes nothing."""
    with open_engine(servers, trained, tmp_path) as (engine, messages):
        for version, folder in enumerate((model, trained), start=1):
            engine.update_weights(hf_tensors(folder).items(), version)
            for _ in range(2):
                assert_scores(folder, SCORES, engine.score(SCORES))
        assert messages == []


def test_samples_score_as_they_were_drawn_while_others_are_still_generated(
    servers, trained, tmp_path
):
    sampling = SamplingConfig(max_response_tokens=40)
    with open_engine(servers, trained, tmp_path) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 1)
        num_samples = 0
        for sample in engine.generate(requests_of(PROMPTS, 4), sampling, seed=0):
            start = len(sample.prompt.token_ids)
            score = Score(sample.prompt.token_ids + sample.token_ids, start)
            (found,) = engine.score([score])
            drawn, found = torch.tensor(sample.logprobs), torch.tensor(found)
            torch.testing.assert_close(found, drawn, atol=1e-4, rtol=0)
            num_samples += 1
        assert (num_samples, messages) == (24, [])


def test_through_a_router_scores_are_the_same(servers, trained, tmp_path):
    with open_engine(servers, trained, tmp_path, router=servers.router) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 1)
        assert_scores(trained, SCORES, engine.score(SCORES))
        assert messages == []


def test_what_is_refused_of_a_request_is_refused_of_a_score(servers, trained, tmp_path):
    before = num_generated(servers)
    with open_engine(servers, trained, tmp_path) as (engine, _):
        engine.update_weights(hf_tensors(trained).items(), 1)
        with pytest.raises(UserError, match=f"expected 0 to {VOCAB_SIZE - 1}, the model's"):
            engine.score([*SCORES, Score((1, VOCAB_SIZE), 1)])
        assert num_generated(servers) == before
        with pytest.raises(UserError, match=r"score 0\): .*refused with status 400"):
            engine.score([Score((5,) * 60_000, 1)])


def test_a_score_that_a_server_fails_is_asked_of_another(servers, trained, tmp_path):
    proxy = BreakingProxy(servers.urls[0])
    urls = [proxy.url, servers.urls[1]]
    with open_engine(servers, trained, tmp_path, urls) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 1)
        proxy.close()
        assert_scores(trained, SCORES, engine.score(SCORES))
    assert any("its requests go to other servers" in message for message in messages)
