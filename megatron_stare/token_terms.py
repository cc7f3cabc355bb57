"""From a batch and its scores to the terms of the loss: rank, gate, weigh.

Everything here is flat over this rank's `r` tokens (see `data.packing.Share`), on one device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_stare.algorithms.aggregation import aggregation_coefficients
from megatron_stare.algorithms.batch_stats import BatchStats
from megatron_stare.algorithms.stare import StareConfig, StareSelection, stare_selection
from megatron_stare.config.commands import TrainConfig
from megatron_stare.data.packing import Share
from megatron_stare.errors import UserError
from megatron_stare.objective import TokenTerms
from megatron_stare.ops.partials import TokenScores
from megatron_stare.types import RolloutBatch, TokenBatch


@dataclass(frozen=True, slots=True)
class LocalTokens:
    """This rank's tokens as they were sampled. `[r]` each.

    stats             statistics of the batch from values of these tokens
    advantages        float32  of the token's sample; 0 under the mask
    rollout_logprobs  float32  nats, of the engine
    """

    stats: BatchStats
    advantages: Tensor
    rollout_logprobs: Tensor

    @property
    def mask(self) -> Tensor:
        """Counted in the loss, bool."""
        return self.stats.mask


def check_rollout_logprobs(has_logprobs: Callable[[], bool], config: TrainConfig) -> None:
    """See that the engine gives log-probs where the config wants them; it is not asked elsewhere.

    Raises:
        UserError: it gave none, and tokens are ranked or corrected by them.
    """
    settings = (
        ("stare.surprisal", config.stare.surprisal, "policy"),
        ("algorithm.correction.kind", config.algorithm.correction.kind, "none"),
    )
    for key, value, without in settings:
        if value != without and not has_logprobs():
            raise UserError(
                f"{key}={value!r}: the samples have no log-probs of the engine; "
                f"record them, or use {key}={without!r}"
            )


def local_tokens(
    batch: RolloutBatch,
    index: Tensor,
    advantages: Tensor,
    device: torch.device,
    dp_group: dist.ProcessGroup,
) -> LocalTokens:
    """Those of a share with this index; `advantages` is per sample, `[B]`."""
    stats = BatchStats(batch, index, device=device, group=dp_group)
    token_advantages = advantages[batch.sample_ids[index]].to(device) * stats.mask
    return LocalTokens(stats, token_advantages, batch.rollout_logprobs[index].to(device))


def rank_tokens(
    tokens: LocalTokens, scores: TokenScores | None, config: StareConfig
) -> StareSelection:
    """Select L+ and L- over the global batch.

    A log-prob that is not finite under a broken policy ranks as 0: the loss is not finite either,
    and the update is skipped.

    Args:
        scores: of the policy before the update; None where the engine's log-probs rank.
    """
    if config.surprisal == "rollout":
        surprisal = -tokens.rollout_logprobs
    else:
        assert scores is not None  # TrainConfig.needs_prepass
        surprisal = _surprisal(scores)
    return _select(surprisal, tokens, config)


def selection_overlap(
    batch: RolloutBatch,
    tokens: LocalTokens,
    selection: StareSelection,
    scores: TokenScores,
    config: StareConfig,
) -> float:
    """Share of the selected tokens that policy and engine agree on, over the global batch.

    Whichever log-probs ranked the step, the other ones rank it again. NaN without selected tokens
    or without log-probs of the engine.

    Args:
        scores: of the policy before the update.
    """
    if not has_rollout_logprobs(batch):
        return math.nan
    by_engine = config.surprisal == "rollout"
    surprisal = _surprisal(scores) if by_engine else -tokens.rollout_logprobs
    other = _select(surprisal, tokens, config)
    return float(tokens.stats.mean(other.mask, where=selection.mask))


def has_rollout_logprobs(batch: RolloutBatch) -> bool:
    """Whether every token that counts has one of the engine."""
    return not batch.rollout_logprobs[batch.loss_mask].isnan().any()


def _surprisal(scores: TokenScores) -> Tensor:
    return torch.nan_to_num(-scores.logprobs, posinf=0.0, neginf=0.0)


def _select(surprisal: Tensor, tokens: LocalTokens, config: StareConfig) -> StareSelection:
    return stare_selection(
        surprisal,
        tokens.advantages,
        top_share=config.top_share,
        token_ids=tokens.stats.token_ids,
        group=tokens.stats.group,
    )


def batch_entropy(tokens: LocalTokens, old: TokenScores | None, config: StareConfig) -> float:
    """Token mean of the policy's entropy over the global batch, in nats.

    With `surprisal: rollout` it is the mean surprisal of the sampled tokens, an unbiased estimate
    of it when sampling is not truncated.
    """
    if config.surprisal == "rollout":
        return float(tokens.stats.mean(-tokens.rollout_logprobs))
    assert old is not None  # TrainConfig.needs_prepass
    return float(tokens.stats.mean(old.entropies))


def token_terms(
    batch: RolloutBatch,
    share: Share,
    tokens: LocalTokens,
    weights: Tensor,
    old: TokenScores | None,
    reference: TokenScores | None,
    config: TrainConfig,
) -> TokenTerms:
    """The constants of the loss: aggregation, advantages, STARE's omega, fixed log-probs.

    Args:
        weights: omega, float32 `[r]`.
    """
    correction, device = config.algorithm.correction.kind, tokens.mask.device
    coefficients = aggregation(batch, share, config.algorithm.aggregation)
    return TokenTerms(
        coefficients=coefficients.to(device),
        advantages=tokens.advantages,
        weights=weights,
        old_logprobs=None if old is None else old.logprobs,
        rollout_logprobs=None if correction == "none" else tokens.rollout_logprobs,
        reference_logprobs=None if reference is None else reference.logprobs,
        sample_ids=batch.sample_ids[share.index].to(device),
    )


def aggregation(batch: TokenBatch, share: Share, kind: str) -> Tensor:
    """The weight of each token in its update's global mean, float32 `[r]`; 0 under the mask."""
    per_sample = torch.zeros(len(batch))
    for samples in share.samples:
        ids = torch.as_tensor(samples)
        per_sample[ids] = aggregation_coefficients(kind, batch.num_loss_tokens[ids])
    return (per_sample[batch.sample_ids] * batch.loss_mask)[share.index]
