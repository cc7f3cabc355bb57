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

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.losses import importance_ratios
from megatron_stare.algorithms.needs import OLD, ROLLOUT
from megatron_stare.algorithms.per_sample import sample_mean, sample_sum


class Corrected(NamedTuple):
    """Of each token, `[n]`: the factor of its loss, and whether its ratio is outside the band."""

    weights: Tensor
    outside: Tensor


class Correction(Link[None]):
    """How samples of a distribution that is not the policy's are weighed."""

    scope = "sample"
    needs = frozenset({OLD, ROLLOUT})

    level: Literal["token", "sequence", "geometric"] = "token"
    """Whose ratio: of each token; the product over its sample; or the geometric mean over it."""

    @property
    def band(self) -> tuple[float, float]:
        """Bounds of the ratios that are left as they are."""
        raise NotImplementedError

    def weigh(self, ratios: Tensor, outside: Tensor) -> Tensor:
        """The factors, `[n]`, of ratios of which some are outside the band."""
        raise NotImplementedError

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Multiply each token's weight by its factor."""
        return credit.scaled(self._of(credit, step).weights)

    def report(self, credit: Credit, step: Step, state: None) -> Mapping[str, float]:
        """How many tokens are outside the band, and what is left of the loss."""
        corrected = self._of(credit, step)
        return {
            "mismatch/corrected_share": float(step.stats.mean(corrected.outside, credit.counted)),
            "mismatch/correction_mean": float(step.stats.mean(corrected.weights, credit.counted)),
        }

    def _of(self, credit: Credit, step: Step) -> Corrected:
        log_ratios = step[OLD].logprobs - step[ROLLOUT]
        return correct(log_ratios, step.sample_ids, credit.counted, self)


class _Banded(Correction):
    low: float
    high: float

    @property
    def band(self) -> tuple[float, float]:
        """As set."""
        return self.low, self.high


class Tis(_Banded):
    """weight * min(max(rho, low), high), rho = policy / engine: truncated importance sampling.

    It bounds the variance, at the price of bias; low = 0 in its first form.

    Source: Ionides, Truncated Importance Sampling, 2008
    Status: paper
    """

    low: float = Field(default=0.0, ge=0, le=1)
    """Lower bound of the band."""
    high: float = Field(default=2.0, ge=1, le=1e30)
    """Upper bound of the band."""

    def weigh(self, ratios: Tensor, outside: Tensor) -> Tensor:
        """min(max(rho, low), high)."""
        return ratios.clamp(self.low, self.high)


class IcePop(_Banded):
    """weight * rho in the band, else 0, rho = policy / engine: masked importance sampling.

    There is no gradient at all where engine and policy disagree.

    Source: Every Step Evolves, arXiv 2510.18855
    Status: paper
    """

    low: float = Field(default=0.5, ge=0, le=1)
    """Lower bound of the band."""
    high: float = Field(default=5.0, ge=1, le=1e30)
    """Upper bound of the band."""

    def weigh(self, ratios: Tensor, outside: Tensor) -> Tensor:
        """rho in the band, else 0."""
        return ratios.masked_fill(outside, 0.0)


class Mis(Correction):
    """weight * 1 where rho = policy / engine is in the band, else 0: rejection sampling.

    What is kept counts as if it were on-policy.

    Source: von Neumann's rejection, as verl and OpenRLHF filter rollouts
    Status: derived
    """

    low: float | None = Field(default=None, ge=0, le=1)
    """Lower bound of the band; None is as far down as up, 1 / `high`."""
    high: float = Field(default=2.0, ge=1, le=1e30)
    """Upper bound of the band."""

    @property
    def band(self) -> tuple[float, float]:
        """As set."""
        return 1 / self.high if self.low is None else self.low, self.high

    def weigh(self, ratios: Tensor, outside: Tensor) -> Tensor:
        """1 in the band, else 0."""
        return torch.ones_like(ratios).masked_fill(outside, 0.0)


def correct(
    log_ratios: Tensor, sample_ids: Tensor, counted: Tensor, correction: Correction
) -> Corrected:
    """The correction of whole samples; no gradient flows into it.

    Args:
        log_ratios: float `[n]`, d in nats; anything, NaN too, where a token is not counted.
        sample_ids: int64 `[n]`; tokens of one sample share an id.
        counted: bool `[n]`, the loss mask; the others have ratio 1 and enter no sum.
        correction: what becomes of the ratios.
    """
    d = log_ratios.detach().masked_fill(~counted, 0.0)
    ratios = importance_ratios(LEVELS[correction.level](d, sample_ids, counted)).to(d.dtype)
    low, high = correction.band
    outside = (ratios < low) | (ratios > high)
    return Corrected(correction.weigh(ratios, outside), outside)


LEVELS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "token": lambda d, sample_ids, counted: d,
    "sequence": lambda d, sample_ids, counted: sample_sum(d, sample_ids),
    "geometric": sample_mean,
}
"""log rho of each token, `[n]`, from d, the sample ids and what is counted."""
