"""How token losses become one number: a mean has one owner.

    loss = sum_t coefficient[sample(t)] * l_t      over every counted token of the global batch

With N counted tokens, n_i of them in sample i, S samples that have any, and L tokens for all:
    token-mean            1 / N          every token weighs the same
    seq-mean-token-mean   1 / (S n_i)    every sample weighs the same
    seq-mean-token-sum    1 / (S L)      every sample weighs as much as it is long
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from megatron_stare.algorithms.batch_stats import Grouping
from megatron_stare.algorithms.step import Step

Aggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"]


def token_coefficients(
    kind: Aggregation, counted: Tensor, step: Step, samples: Sequence[int], sum_over: int
) -> Tensor:
    """What each token weighs in an update's global mean, float32 `[r]`; 0 where not counted.

    Args:
        counted: bool `[r]`.
        samples: of the update, over all ranks.
        sum_over: L.
    """
    counts = step.batch.num_loss_tokens
    if counted is not step.mask:
        counts = step.by(Grouping.by_sample).count(counted).long().cpu()
    ids = torch.as_tensor(samples, dtype=torch.int64)
    of_samples = torch.zeros(len(step.batch))
    of_samples[ids] = aggregation_coefficients(kind, counts[ids], sum_over)
    return of_samples.to(step.mask.device)[step.sample_ids] * counted


def aggregation_coefficients(kind: str, num_loss_tokens: Tensor, sum_over: int = 1) -> Tensor:
    """The coefficient of each sample's tokens, float32 `[B]`; 0 for a sample without any.

    Args:
        kind: a key of `AGGREGATIONS`.
        num_loss_tokens: int64 `[B]`, counted tokens of every sample of the global batch.
        sum_over: L.
    """
    counts = num_loss_tokens.double()
    coefficients = AGGREGATIONS[kind](counts, (counts > 0).sum(), sum_over)
    return coefficients.masked_fill(counts == 0, 0.0).float()


AGGREGATIONS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "token-mean": lambda counts, samples, _: torch.ones_like(counts) / counts.sum(),
    "seq-mean-token-mean": lambda counts, samples, _: 1 / (samples * counts),
    "seq-mean-token-sum": lambda counts, samples, over: torch.ones_like(counts) / samples / over,
}
