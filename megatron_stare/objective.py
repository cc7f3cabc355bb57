"""What an update minimises: the reinforcement objective and the supervised one."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from megatron_stare.algorithms.corrections import Correction, correct
from megatron_stare.algorithms.losses import clip_shares, clipped_policy_loss, kl_penalty
from megatron_stare.config.algorithm import AlgorithmConfig
from megatron_stare.ops.partials import TokenScores


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """The constants of the loss, `[r]` each, flat over this rank's tokens; float32, ids int64.

    coefficients         aggregation weight of the token in the global mean; 0 under the loss mask
    advantages           of the token's sample
    weights              STARE's omega
    old_logprobs         of the policy that starts the step; None: this very forward pass
    rollout_logprobs     of the engine; None without a correction
    reference_logprobs   of the starting policy; None without a KL penalty
    sample_ids           of the token's sample
    """

    coefficients: Tensor
    advantages: Tensor
    weights: Tensor
    old_logprobs: Tensor | None
    rollout_logprobs: Tensor | None
    reference_logprobs: Tensor | None
    sample_ids: Tensor

    def __getitem__(self, tokens: slice) -> TokenTerms:
        """The same terms for a run of tokens."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        present = {name: value[tokens] for name, value in values.items() if value is not None}
        return replace(self, **present)


class PolicyObjective:
    """Clipped, dual-clipped, STARE-weighted policy loss, corrected for the engine's distribution,
    plus an optional KL penalty and an optional entropy bonus.

    loss = sum_t coefficient_t * (omega_t * w_t * l_t + kl_coef * kl_t - entropy_coef * H_t)

    omega is STARE's (algorithm step 6), w the correction's; neither carries a gradient. H, the
    entropy of the policy where t was sampled, does.
    """

    stat_names = (
        *("loss_tokens", "clip_low", "clip_high", "dual_clip", "kl_reference"),
        *("corrected", "correction"),
    )

    def __init__(self, terms: TokenTerms, config: AlgorithmConfig) -> None:
        self.terms = terms
        self.config = config

    @property
    def differentiates_entropy(self) -> bool:
        """With an entropy bonus, its gradient is what it is for."""
        return self.config.entropy_coef > 0

    def __call__(self, scores: TokenScores, tokens: slice) -> tuple[Tensor, Tensor]:
        """The loss of a micro-batch and the sums behind its shares and means over tokens."""
        terms, config = self.terms[tokens], self.config
        logprobs = scores.logprobs
        old = logprobs.detach() if terms.old_logprobs is None else terms.old_logprobs
        bounds = {
            "clip_low": config.clip_low,
            "clip_high": config.clip_high,
            "dual_clip": config.dual_clip,
        }
        counted = terms.coefficients > 0
        correction = _correction(terms, old, counted, config)
        weights = terms.weights * correction.weights
        loss = clipped_policy_loss(logprobs, old, terms.advantages, **bounds, weights=weights)
        clipped = clip_shares(logprobs.detach(), old, terms.advantages, **bounds)
        kl = torch.zeros_like(logprobs)
        if terms.reference_logprobs is not None:
            kl = kl_penalty(logprobs, terms.reference_logprobs, config.kl)
        stats = torch.stack(
            [
                counted.sum(),
                *((share & counted).sum() for share in clipped),
                kl.detach()[counted].sum(),
                correction.outside[counted].sum(),
                correction.weights[counted].sum(),
            ]
        )
        regularised = loss + config.kl_coef * kl - config.entropy_coef * scores.entropies
        return (terms.coefficients * regularised).sum(), stats


def _correction(
    terms: TokenTerms, old_logprobs: Tensor, counted: Tensor, config: AlgorithmConfig
) -> Correction:
    """Of a micro-batch: it holds whole samples. `old_logprobs` start the step, in every update."""
    if terms.rollout_logprobs is None:
        return Correction(torch.ones_like(terms.weights), torch.zeros_like(counted))
    log_ratios = old_logprobs - terms.rollout_logprobs
    return correct(log_ratios, terms.sample_ids, counted, config.correction)


class SupervisedObjective:
    """Mean negative log-likelihood over the response tokens of the global batch, in nats."""

    stat_names = ()
    differentiates_entropy = False

    def __init__(self, coefficients: Tensor) -> None:
        self.coefficients = coefficients

    def __call__(self, scores: TokenScores, tokens: slice) -> tuple[Tensor, Tensor]:
        """The loss of a micro-batch; it has no statistics."""
        loss = -(self.coefficients[tokens] * scores.logprobs).sum()
        return loss, loss.new_zeros(0)
