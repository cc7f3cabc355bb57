"""Drawing a token: which one, and the log-prob that is reported for it."""

import pytest
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.next_token import draw_tokens
from megatron_stare.ops.entropy_temperature import EntropyTemperature

LOGITS = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 3


def draw_evenly(logits: torch.Tensor, sampling: SamplingConfig, count: int = 20_000):
    """Tokens and log-probs for `count` uniforms that cover [0, 1) evenly."""
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return draw_tokens(logits.expand(count, -1), uniforms, sampling)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.0])
def test_tokens_come_as_often_as_the_distribution_says(temperature):
    tokens, *_ = draw_evenly(LOGITS[0], SamplingConfig(temperature=temperature))
    frequencies = torch.bincount(tokens, minlength=50) / len(tokens)
    expected = torch.softmax(LOGITS[0] / temperature, dim=-1)
    torch.testing.assert_close(frequencies, expected, rtol=0, atol=1e-4)


def test_the_logprob_is_that_of_the_drawn_token_at_the_temperature():
    tokens, logprobs, _ = draw_tokens(
        LOGITS, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), SamplingConfig(temperature=0.7)
    )
    expected = torch.log_softmax(LOGITS / 0.7, dim=-1).gather(-1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected)


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (0, 0.8), (10, 0.5), (1, 1.0), (0, 1e-300)])
def test_truncation_keeps_what_transformers_keeps_and_renormalises(top_k, top_p):
    sampling = SamplingConfig(temperature=1.5, top_k=top_k, top_p=top_p)
    scores = LOGITS[:1] / 1.5
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    expected = torch.log_softmax(TopPLogitsWarper(top_p)(None, scores), dim=-1)[0]

    tokens, logprobs, _ = draw_evenly(LOGITS[0], sampling)

    assert set(tokens.tolist()) == set(expected.isfinite().nonzero()[:, 0].tolist())
    torch.testing.assert_close(logprobs, expected[tokens])


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_a_token_without_probability_is_never_drawn(uniform):
    logits = torch.full((1, 6), -torch.inf)
    logits[0, 2:4] = 0.0
    tokens, *_ = draw_tokens(logits, torch.tensor([uniform], dtype=torch.float64), SamplingConfig())
    assert tokens.item() in (2, 3)


def test_a_row_does_not_depend_on_the_others():
    uniforms = torch.tensor([0.3, 0.6, 0.8], dtype=torch.float64)
    together = draw_tokens(LOGITS, uniforms, SamplingConfig(top_p=0.9))
    for row in range(3):
        alone = draw_tokens(
            LOGITS[row : row + 1], uniforms[row : row + 1], SamplingConfig(top_p=0.9)
        )
        assert [x.item() for x in alone] == [x[row].item() for x in together]


def test_rounding_over_a_large_vocabulary_does_not_move_the_distribution():
    # The upper half of a flat distribution over 150,000 tokens must get half of the draws.
    tokens, *_ = draw_tokens(
        torch.zeros(2, 150_000),
        torch.tensor([0.5, 1 - 1e-9], dtype=torch.float64),
        SamplingConfig(),
    )
    assert tokens.tolist() == [75_000, 149_999]


RULE = EntropyTemperature(pivot=0.0, above=1.0, below=2.0, tau=0.5)


def test_with_a_rule_each_token_is_drawn_at_the_temperature_that_comes_with_it():
    base = torch.log_softmax(LOGITS / 0.7, dim=-1)
    expected = 0.7 * RULE.factors(base)
    assert len(expected.unique()) == 3
    uniforms = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    for logits, temperature in zip(LOGITS, expected, strict=True):
        drawn = draw_tokens(
            logits.expand(20_000, -1), uniforms, SamplingConfig(temperature=0.7), RULE
        )
        torch.testing.assert_close(drawn.temperatures, temperature.expand(20_000))
        logprobs = torch.log_softmax(logits / temperature, dim=-1)
        torch.testing.assert_close(drawn.logprobs, logprobs[drawn.tokens])
        frequencies = torch.bincount(drawn.tokens, minlength=50) / 20_000
        torch.testing.assert_close(frequencies, logprobs.exp(), rtol=0, atol=1e-4)
