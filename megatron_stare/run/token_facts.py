"""What a step has decided of each token, and what the update did to it: gathered for a dump."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_stare.algorithms.hooks import Update
from megatron_stare.algorithms.losses import importance_ratios
from megatron_stare.algorithms.needs import OLD
from megatron_stare.algorithms.objective import MethodObjective
from megatron_stare.ops.partials import TokenScores
from megatron_stare.rollout.token_dump import TokenColumns
from megatron_stare.run.learner import Learned, Learner
from megatron_stare.types import RolloutBatch


@torch.no_grad()
def token_columns(
    learner: Learner[Any], batch: RolloutBatch, learned: Learned, num_groups: int
) -> TokenColumns | None:
    """Of the first groups of a batch that was learned from; on rank 0, and None elsewhere.

    Collective. The tokens are the first ones of the batch's order, so that a token's place there is
    its place here, too. They are scored once more, under the weights after the update.
    """
    samples = [i for i, group in enumerate(batch.group_ids.tolist()) if group < num_groups]
    count = int(batch.response_lengths[samples].sum())
    step, dp = learned.step, learner.session.policy.groups.dp
    tokens = (step.index < count).nonzero().squeeze(1)
    places = step.index[tokens]

    def whole(values: Tensor, places: Tensor = places) -> Tensor:
        """What all ranks know of their tokens: zeros elsewhere, which a sum does not change."""
        found = torch.zeros(count, device=values.device)
        found[places] = values.float()
        dist.all_reduce(found, group=dp)
        return found

    after, index = _scores_after(learner, batch, samples)
    after = TokenScores(*(whole(part, index) for part in after))
    objective = MethodObjective.of(
        learner.config.algorithm, step, Update(samples, learned.credit)
    ).at(tokens)
    held_back = objective.held_back(after.at(places))
    sets = learner.chain.sets(learned.credit, step)
    credit, old = objective.whole_credit, objective.step[OLD]
    numbers = {
        "logprob": old.logprobs,
        "entropy": old.entropies,
        "advantage": credit.advantages,
        "weight": credit.weights,
        "ratio": importance_ratios(after.at(places).logprobs - old.logprobs),
    }
    flags = {"set": {name: which[tokens] for name, which in sets.items()}, "clip": held_back}
    on_host = {name: whole(values).cpu() for name, values in numbers.items()}
    columns = TokenColumns(
        num_groups,
        on_host,
        whole(credit.counted).bool().cpu(),
        {
            column: {name: whole(which).bool().cpu() for name, which in names.items()}
            for column, names in flags.items()
        },
    )
    return columns if dist.get_rank() == 0 else None


def _scores_after(
    learner: Learner[Any], batch: RolloutBatch, samples: list[int]
) -> tuple[TokenScores, Tensor]:
    """Scores of samples under the weights of now, and where their tokens stand in the batch.

    They are spread over the ranks anew: those that the step was spread over may have few of them.
    """
    session = learner.session
    share = session.plan(batch, [samples])
    with session.phase("dump", len(share.index)) as advance:
        return session.policy.score(batch, share.micro_batches, advance), share.index
