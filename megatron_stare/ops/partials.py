"""Softmax statistics of a part of the vocabulary, how parts combine, and the gradient they give.

Any set of columns reduces to four float32 numbers a token, its *partial* `[4, n]`:
    max      of its logits
    sum      of exp(logit - max)
    moment   sum of (logit - max) exp(logit - max)
    target   the target's logit, 0 where it is not among the columns
Partials of disjoint columns merge into that of their union, whether they are tiles of one rank or
the shards of several. That of the whole vocabulary, (M, S, W, target), gives
    logprob = target - M - ln S           entropy = ln S - W / S
Shifted by M, nothing cancels however far the logits are from 0. Gradients, with p = exp(. - M) / S:
    d logprob / d logit_j = [j = target] - p_j
    d entropy / d logit_j = -p_j (logit_j - M - ln S + entropy)

Shapes: n tokens, V vocabulary with padding. Logits here are divided by the temperature. Nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class VocabShard:
    """This rank's columns of the vocabulary: the first `num_columns` it holds, from `start` on.

    `group` shares the vocabulary; None where this rank has all of it.
    """

    start: int
    num_columns: int
    vocab_size: int
    group: dist.ProcessGroup | None

    @classmethod
    def of(cls, width: int, vocab_size: int | None, group: dist.ProcessGroup | None) -> VocabShard:
        """The shard of a rank that holds `width` columns; ranks in order, padding last."""
        rank, size = (0, 1) if group is None else (group.rank(), group.size())
        vocab_size = width * size if vocab_size is None else vocab_size
        if vocab_size > width * size:
            raise ValueError(f"vocab_size {vocab_size} exceeds {size} shards of {width} columns")
        start = rank * width
        num_columns = min(max(vocab_size - start, 0), width)
        return cls(start, num_columns, vocab_size, group if size > 1 else None)


class TokenScores(NamedTuple):
    """What a softmax over the vocabulary says of tokens: float32 `[n]` each.

    logprobs   of the target, ln p, in nats
    entropies  of the distribution, in nats
    maxima     M
    totals     S; with the entropies and M all that a backward needs of the forward
    """

    logprobs: Tensor
    entropies: Tensor
    maxima: Tensor
    totals: Tensor

    def at(self, tokens: slice | Tensor) -> TokenScores:
        """Those of some of the tokens."""
        return TokenScores(*(score[tokens] for score in self))

    def spread(self, tokens: Tensor, num_tokens: int) -> TokenScores:
        """As those of some of `num_tokens` tokens, 0 for the others."""
        return TokenScores(*(s.new_zeros(num_tokens).index_copy(0, tokens, s) for s in self))


@dataclass(frozen=True, slots=True)
class RowTerms:
    """What the gradient by logits needs of each token: float32 `[n]` each.

    With a and b the gradients by log-prob and entropy, and t the temperature that divided the
    logits:
        temperature    t
        maximum        M
        weight         (a + b (entropy - ln S)) / (t S)
        slope          a / t
        moment_weight  b / (t S); None where the entropy has no gradient
    so that d loss / d logit_j = slope [j = target] - exp(x_j) (weight + moment_weight x_j), with
    x_j = logit_j / t - M.
    """

    temperature: Tensor
    maximum: Tensor
    weight: Tensor
    slope: Tensor
    moment_weight: Tensor | None

    @classmethod
    def of(
        cls,
        temperature: Tensor,
        maximum: Tensor,
        total: Tensor,
        d_logprob: Tensor,
        d_entropy: Tensor | None,
        entropy: Tensor | None,
    ) -> RowTerms:
        """From what the forward kept; `d_entropy` and `entropy` are both None or neither."""
        slope = d_logprob / temperature
        if d_entropy is None or entropy is None:
            return cls(temperature, maximum, slope / total, slope, None)
        moment_weight = d_entropy / temperature / total
        weight = slope / total + moment_weight * (entropy - total.log())
        return cls(temperature, maximum, weight, slope, moment_weight)

    def __getitem__(self, rows: slice) -> RowTerms:
        return RowTerms(
            self.temperature[rows],
            self.maximum[rows],
            self.weight[rows],
            self.slope[rows],
            None if self.moment_weight is None else self.moment_weight[rows],
        )


def empty_partial(targets: Tensor) -> Tensor:
    """The partial of no columns; its max is finite because -inf * 0 is NaN."""
    partial = torch.zeros(4, len(targets), dtype=torch.float32, device=targets.device)
    partial[0] = torch.finfo(torch.float32).min
    return partial


def partial_of(logits: Tensor, local_targets: Tensor) -> Tensor:
    """The partial of logits `[n, columns]`, which are overwritten.

    Args:
        local_targets: int64 `[n]`, targets counted from the first of these columns.
    """
    here = (local_targets >= 0) & (local_targets < logits.shape[1])
    target = logits.gather(1, (local_targets * here)[:, None])[:, 0] * here
    maximum = logits.amax(1)
    shifted = logits.sub_(maximum[:, None])
    exp = shifted.exp()
    total = exp.sum(1)
    moment = exp.mul_(shifted).sum(1)
    return torch.stack([maximum, total, moment, target])


def merge(partials: Tensor) -> Tensor:
    """The partial `[4, n]` of the union of disjoint parts `[parts, 4, n]`."""
    maxima, totals, moments, targets = partials.unbind(1)
    maximum = maxima.amax(0)
    shift = maxima - maximum
    scale = shift.exp()
    total = (scale * totals).sum(0)
    moment = (scale * (moments + shift * totals)).sum(0)
    return torch.stack([maximum, total, moment, targets.sum(0)])


def combine(partial: Tensor, group: dist.ProcessGroup | None) -> TokenScores:
    """The scores from this rank's partial; one all-gather of it."""
    if group is not None:
        gathered = partial.new_empty(group.size() * len(partial), partial.shape[1])
        dist.all_gather_single(gathered, partial, group=group)
        partial = merge(gathered.view(group.size(), *partial.shape))
    maxima, totals, moments, targets = partial
    log_totals = totals.log()
    return TokenScores(
        logprobs=targets - maxima - log_totals,
        entropies=log_totals - moments / totals,
        maxima=maxima.clone(),
        totals=totals.clone(),
    )


def d_logits_(logits: Tensor, local_targets: Tensor, terms: RowTerms) -> Tensor:
    """d loss / d logits, in place of logits `[n, columns]` not yet divided by the temperature."""
    shifted = logits.div_(terms.temperature[:, None]).sub_(terms.maximum[:, None])
    if terms.moment_weight is None:
        gradient = shifted.exp_().mul_(-terms.weight[:, None])
    else:
        factor = torch.addcmul(terms.weight[:, None], shifted, terms.moment_weight[:, None])
        gradient = shifted.exp_().mul_(factor.neg_())
    here = (local_targets >= 0) & (local_targets < logits.shape[1])
    return gradient.scatter_add_(1, (local_targets * here)[:, None], (terms.slope * here)[:, None])
