"""One token per sequence from its logits and a uniform number, by inverting the distribution."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.ops.entropy_temperature import EntropyTemperature


class Drawn(NamedTuple):
    """Tokens int64 `[n]`, their log-probs in nats and the temperatures of each, float32 `[n]`."""

    tokens: Tensor
    logprobs: Tensor
    temperatures: Tensor


def draw_tokens(
    logits: Tensor,
    uniforms: Tensor,
    sampling: SamplingConfig,
    rule: EntropyTemperature | None = None,
) -> Drawn:
    """Draw a token per row and say how likely it was.

    Args:
        logits: `[n, V]`, any float dtype.
        uniforms: float64 `[n]` in [0, 1); row i's token is a function of `logits[i]` and
            `uniforms[i]` alone.
        sampling: temperature first, then top_k, then top_p on what top_k left.
        rule: moves the temperature of each token.

    Returns:
        Log-probs are under the distribution that tokens were drawn from: with top_k or top_p the
        truncated one, renormalised.

    Raises:
        FloatingPointError: a row has no distribution: a logit is NaN, or +inf.
    """
    logprobs = torch.log_softmax(logits.float() / sampling.temperature, dim=-1)
    temperatures = logprobs.new_full((len(logprobs),), sampling.temperature)
    if rule is not None:
        temperatures = temperatures * rule.factors(logprobs)
        logprobs = torch.log_softmax(logits.float() / temperatures[:, None], dim=-1)
    if sampling.top_k or sampling.top_p < 1:
        logprobs = torch.log_softmax(_truncate(logprobs, sampling.top_k, sampling.top_p), dim=-1)
    # float64, so that rounding over a large vocabulary neither moves a boundary nor ends below 1.
    cumulative = logprobs.exp().cumsum(dim=-1, dtype=torch.float64)
    if not cumulative[:, -1].isfinite().all():
        raise FloatingPointError("a logit is not finite")
    thresholds = uniforms[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, thresholds, right=True)
    return Drawn(tokens[:, 0], logprobs.gather(-1, tokens)[:, 0], temperatures)


def _truncate(logprobs: Tensor, top_k: int, top_p: float) -> Tensor:
    """Set to -inf what is not among the top k, or not in the smallest set of at least `top_p`."""
    ordered, tokens = logprobs.sort(dim=-1, descending=True, stable=True)
    if top_k:
        ordered[:, top_k:] = -torch.inf
    if top_p < 1:
        probs = ordered.softmax(dim=-1)
        mass_before = probs.cumsum(dim=-1) - probs
        # The first stays, though float32 may take a small `top_p` for 0.
        ordered.masked_fill_((mass_before >= top_p) & (mass_before > 0), -torch.inf)
    return torch.empty_like(logprobs).scatter_(-1, tokens, ordered)
