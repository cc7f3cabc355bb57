"""Log-probs under a softmax without its unlikely tokens: a second product of the LM head.

What is unlikely is said against the likeliest token of the whole vocabulary, which the first
product finds. Shapes are those of `logprob_entropy`: n tokens, h hidden size, V vocabulary, tp
ranks of the group.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_stare.ops.head_tiles import Tile, head_logits
from megatron_stare.ops.partials import TokenScores, VocabShard

REMOVED = -1e4
"""Nats: the log-prob of a token that is left out."""


@torch.no_grad()
def min_p_logprobs(
    hidden: Tensor,
    weight: Tensor,
    scores: TokenScores,
    *,
    kappa: float,
    temperature: float | Tensor = 1.0,
    vocab_size: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """ln p' of each target, p' = p / sum of p over tokens with p >= kappa max p, float32 `[n]`.

    `REMOVED` where the target is none of these. Logits exist for a tile at a time; one all-reduce
    of `[n]`.

    Args:
        hidden: float `[n, h]`, the same on all ranks.
        weight: float `[V/tp, h]`, this rank's rows of the LM head.
        scores: what `linear_token_scores` has said of the same tokens.
        kappa: above 0, below 1.
        temperature, vocab_size, group: as there.
    """
    shard = VocabShard.of(weight.shape[0], vocab_size, group)
    scale = torch.as_tensor(temperature, device=hidden.device).float().expand(len(hidden))
    floor = math.log(kappa)
    kept = torch.zeros_like(scores.totals)
    tile = Tile.for_head(weight.shape[1], weight.device)
    for rows, logits in head_logits(hidden, weight[: shard.num_columns], tile):
        apart = logits.div_(scale[rows, None]).sub_(scores.maxima[rows, None])
        kept[rows] += apart.exp().masked_fill_(apart < floor, 0.0).sum(1)
    if shard.group is not None and len(kept):
        dist.all_reduce(kept, group=shard.group)
    apart = scores.logprobs + scores.totals.log()  # Of the target's logit from the largest.
    return torch.where(apart >= floor, apart - kept.log(), REMOVED)
