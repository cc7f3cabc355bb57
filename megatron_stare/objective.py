"""What an update minimises: the reinforcement objective and the supervised one."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from megatron_stare.algorithms.losses import clip_shares, clipped_policy_loss, kl_penalty
from megatron_stare.config import AlgorithmConfig
from megatron_stare.policy.step import TokenScores


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """The constants of the loss, float32 `[r]` each, flat over this rank's tokens.

    coefficients         aggregation weight of the token in the global mean; 0 under the loss mask
    advantages           of the token's sample
    weights              STARE's omega
    old_logprobs         of the policy that starts the step; None: this very forward pass
    reference_logprobs   of the starting policy; None without a KL penalty
    """

    coefficients: Tensor
    advantages: Tensor
    weights: Tensor
    old_logprobs: Tensor | None
    reference_logprobs: Tensor | None

    def __getitem__(self, tokens: slice) -> TokenTerms:
        """The same terms for a run of tokens."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        present = {name: value[tokens] for name, value in values.items() if value is not None}
        return replace(self, **present)


class PolicyObjective:
    """Clipped, dual-clipped, STARE-weighted policy loss, plus the optional KL penalty.

    loss = sum_t coefficient_t * (omega_t * l_t + kl_coef * kl_t)    (STARE, algorithm step 6)
    """

    stat_names = ("loss_tokens", "clip_low", "clip_high", "dual_clip", "kl_reference")

    def __init__(self, terms: TokenTerms, config: AlgorithmConfig) -> None:
        self.terms = terms
        self.config = config

    def __call__(self, scores: TokenScores, tokens: slice) -> tuple[Tensor, Tensor]:
        """The loss of a micro-batch and the sums behind the clip shares and the KL."""
        terms, config = self.terms[tokens], self.config
        logprobs = scores.logprobs
        old = logprobs.detach() if terms.old_logprobs is None else terms.old_logprobs
        bounds = {
            "clip_low": config.clip_low,
            "clip_high": config.clip_high,
            "dual_clip": config.dual_clip,
        }
        loss = clipped_policy_loss(logprobs, old, terms.advantages, **bounds, weights=terms.weights)
        counted = terms.coefficients > 0
        clipped = clip_shares(logprobs.detach(), old, terms.advantages, **bounds)
        kl = torch.zeros_like(logprobs)
        if terms.reference_logprobs is not None:
            kl = kl_penalty(logprobs, terms.reference_logprobs, config.kl)
        stats = torch.stack(
            [
                counted.sum(),
                *((share & counted).sum() for share in clipped),
                kl.detach()[counted].sum(),
            ]
        )
        return (terms.coefficients * (loss + config.kl_coef * kl)).sum(), stats


class SupervisedObjective:
    """Mean negative log-likelihood over the response tokens of the global batch, in nats."""

    stat_names = ()

    def __init__(self, coefficients: Tensor) -> None:
        self.coefficients = coefficients

    def __call__(self, scores: TokenScores, tokens: slice) -> tuple[Tensor, Tensor]:
        """The loss of a micro-batch; it has no statistics."""
        loss = -(self.coefficients[tokens] * scores.logprobs).sum()
        return loss, loss.new_zeros(0)
