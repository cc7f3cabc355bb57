"""Log-probs of the prompts of a batch: each group's prompt, scored as if it were a response."""

from __future__ import annotations

import torch
import torch.distributed as dist

from megatron_stare.algorithms.needs import PromptLogprobs
from megatron_stare.run.session import Session
from megatron_stare.types import RolloutBatch, TokenBatch


def score_prompts(session: Session, batch: RolloutBatch) -> PromptLogprobs:
    """Under the weights before the update; a pass of each group's prompt. Collective.

    A prompt's first token stands for its prompt, the others for its response: what scores
    responses, in any layout, scores them.
    """
    prompts = first_prompts(batch)
    share = session.plan(prompts, [list(range(len(prompts)))])
    with session.phase("prepass", len(share.index)) as advance:
        scores = session.policy.score(prompts, share.micro_batches, advance)
    # Each token is on one data-parallel rank: the others add nothing but zeros.
    whole = scores.logprobs.new_zeros(len(prompts.loss_mask))
    whole[share.index.to(whole.device)] = scores.logprobs
    dist.all_reduce(whole, group=session.policy.groups.dp)
    of_groups = whole.cpu().split(prompts.response_lengths.tolist())
    group_of_sample = batch.group_ids.unique(return_inverse=True)[1]
    return PromptLogprobs([of_groups[group] for group in group_of_sample.tolist()])


def first_prompts(batch: RolloutBatch) -> TokenBatch:
    """The prompt of each group, in ascending order of their ids: one token, and the rest."""
    samples = batch.token_ids.split(batch.lengths.tolist())
    lengths = batch.prompt_lengths.tolist()
    firsts = [int((batch.group_ids == group).nonzero()[0]) for group in batch.group_ids.unique()]
    rest = torch.tensor([lengths[first] - 1 for first in firsts])
    return TokenBatch(
        token_ids=torch.cat([samples[first][: lengths[first]] for first in firsts]),
        prompt_lengths=torch.ones_like(rest),
        response_lengths=rest,
        loss_mask=torch.ones(int(rest.sum()), dtype=torch.bool),
    )
