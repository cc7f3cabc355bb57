"""Whether a policy still answers, before it takes the place of a good one on disk.

Weights may be finite and yet so large that every log-prob is NaN. An update shows that only in the
forward after it, which comes after the save.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from megatron_stare.policy.step import Policy
from megatron_stare.types import TokenBatch

_NUM_TOKENS = 16


def has_finite_scores(policy: Policy) -> bool:
    """Whether log-probs of a few tokens, from all over the vocabulary, are finite. Collective.

    One forward of one short micro-batch, on every data-parallel rank.
    """
    token_ids = torch.arange(_NUM_TOKENS) * policy.shape.vocab_size // _NUM_TOKENS
    num_scored = _NUM_TOKENS - 1
    batch = TokenBatch(
        token_ids,
        prompt_lengths=torch.tensor([1]),
        response_lengths=torch.tensor([num_scored]),
        loss_mask=torch.ones(num_scored, dtype=torch.bool),
    )
    logprobs = policy.score(batch, [(0,)]).logprobs
    is_any_bad = (~logprobs.isfinite()).any().int()
    dist.all_reduce(is_any_bad, op=dist.ReduceOp.MAX)
    return not is_any_bad
