"""Corrections of the train/rollout mismatch: a factor of each token's loss.

Samples come from the engine's distribution, the gradient is taken of the policy's. With
d_t = log-prob of the policy that starts the step - log-prob of the engine, the importance ratio is

    token      rho_t = exp(d_t)
    sequence   rho_t = exp(sum of d over the counted tokens of t's sample)
    geometric  rho_t = exp(mean of d over the counted tokens of t's sample)

and a correction says what becomes of it against a band [low, high] around 1:

    tis        min(max(rho, low), high)        truncated importance sampling
    icepop     rho in the band, else 0         masked importance sampling, both sides
    mis        1 in the band, else 0           rejection: drops, and reweights nothing

The factor carries no gradient, and multiplies the clipped loss of the ratio to the policy that
starts the step: w(policy / engine) * PPO(new / policy), a decoupled objective (arXiv 2110.00641).
What is dropped still counts in the denominator (docs/decisions/0007).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from megatron_stare.algorithms.losses import importance_ratios
from megatron_stare.algorithms.settings import Settings


class CorrectionConfig(Settings):
    """How samples of a distribution that is not the policy's are weighed."""

    kind: Literal["auto", "none", "tis", "icepop", "mis"] = "auto"
    """What becomes of policy / engine ratios: `tis` truncates those outside the band to its bounds,
    `icepop` drops their tokens, `mis` drops them and gives all others the weight 1. `auto` is `tis`
    where tokens may be older than the weights that they train, else `none`."""
    level: Literal["token", "sequence", "geometric"] = "token"
    """Whose ratio: of each token; the product over its sample; or the geometric mean over it."""
    low: float | None = Field(default=None, ge=0, le=1)
    """Lower bound of the band; by default 0 for `tis`, 0.5 for `icepop`, 1 / `high` for `mis`."""
    high: float | None = Field(default=None, ge=1, le=1e30)
    """Upper bound of the band; by default 2 for `tis` and `mis`, 5 for `icepop`."""

    @property
    def band(self) -> tuple[float, float]:
        """Bounds of the ratios that are left as they are."""
        kind = CORRECTIONS[self.kind]
        high = kind.high if self.high is None else self.high
        return kind.low(high) if self.low is None else self.low, high

    @model_validator(mode="after")
    def _is_used(self) -> CorrectionConfig:
        is_one = self.kind in CORRECTIONS
        if not is_one and (self.level, self.low, self.high) != ("token", None, None):
            raise ValueError(
                f"kind={self.kind!r} with level={self.level!r}, low={self.low}, high={self.high}: "
                "these belong to a correction, set its kind"
            )
        return self


class Correction(NamedTuple):
    """Of each token, `[n]`: the factor of its loss, and whether its ratio is outside the band."""

    weights: Tensor
    outside: Tensor


def correct(
    log_ratios: Tensor, sample_ids: Tensor, counted: Tensor, config: CorrectionConfig
) -> Correction:
    """The correction of whole samples; no gradient flows into it.

    Args:
        log_ratios: float `[n]`, d in nats; anything, NaN too, where a token is not counted.
        sample_ids: int64 `[n]`; tokens of one sample share an id.
        counted: bool `[n]`, the loss mask; the others have ratio 1 and enter no sum.
        config: any kind but `none`.
    """
    d = log_ratios.detach().masked_fill(~counted, 0.0)
    ratios = importance_ratios(LEVELS[config.level](d, sample_ids, counted)).to(d.dtype)
    weights = CORRECTIONS[config.kind].weights(ratios, *config.band)
    return Correction(weights, _outside(ratios, *config.band))


def truncated(ratios: Tensor, low: float, high: float) -> Tensor:
    """TIS: bounds the variance, at the price of bias (Ionides 2008); low = 0 in its first form."""
    return ratios.clamp(low, high)


def icepop(ratios: Tensor, low: float, high: float) -> Tensor:
    """IcePop: no gradient at all from a token on which engine and policy disagree."""
    return ratios.masked_fill(_outside(ratios, low, high), 0.0)


def masked(ratios: Tensor, low: float, high: float) -> Tensor:
    """MIS, rejection sampling: the tokens that IcePop keeps, as if they were on-policy."""
    return torch.ones_like(ratios).masked_fill(_outside(ratios, low, high), 0.0)


def _outside(ratios: Tensor, low: float, high: float) -> Tensor:
    return (ratios < low) | (ratios > high)


class Kind(NamedTuple):
    """A correction: `(ratios, low, high) -> weights`, and its published band: low by high."""

    weights: Callable[[Tensor, float, float], Tensor]
    low: Callable[[float], float]
    high: float


CORRECTIONS: dict[str, Kind] = {
    "tis": Kind(truncated, lambda _: 0.0, 2.0),
    "icepop": Kind(icepop, lambda _: 0.5, 5.0),
    "mis": Kind(masked, lambda high: 1 / high, 2.0),  # as far down as up
}


def _sample_sum(values: Tensor, sample_ids: Tensor) -> Tensor:
    """Of its sample, for each token, `[..., n]`; in float64, as a response has many terms."""
    unique, member_of = sample_ids.unique(return_inverse=True)
    sums = values.new_zeros(*values.shape[:-1], len(unique), dtype=torch.float64)
    return sums.index_add_(-1, member_of, values.double())[..., member_of]


def _sample_mean(d: Tensor, sample_ids: Tensor, counted: Tensor) -> Tensor:
    total, count = _sample_sum(torch.stack([d, counted.to(d.dtype)]), sample_ids)
    return total / count.clamp(min=1)


LEVELS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "token": lambda d, sample_ids, counted: d,
    "sequence": lambda d, sample_ids, counted: _sample_sum(d, sample_ids),
    "geometric": _sample_mean,
}
"""log rho of each token, `[n]`, from d, the sample ids and what is counted."""
