"""Batches that hold every irregularity a step has to get right, three of them for three steps.

Each has 17 samples in 4 groups, of 2 to 400 tokens, with responses of 1 to 399:
    group 0  a prompt of one token; the shortest and the longest sample; two identical samples
    group 1  equal rewards: advantage 0
    group 2  a tool segment under the loss mask, and a response that is masked altogether
    group 3  a sample whose reward is the mean of its group: advantage 0 beside others that are not

The engine's log-probs are multiples of 1/16 nat, so that most of them are exact ties. They are near
those of a policy that knows nothing, and their mean is 5.575, 5.775 and 5.575 nats: with a target
of 5.675 the gate is on, off and on again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from megatron_stare.types import RolloutBatch
from tests.models import VOCAB_SIZE

PROMPTS = (1, 30, 7, 64)
RESPONSES = ((1, 399, 9, 9), (17, 64, 5, 90), (33, 2, 120, 61, 8), (10, 25, 3, 17))
REWARDS = ((0.0, 1.0, 0.0, 0.0), (1.0,) * 4, (0.0, 1.0, 0.0, 1.0, 1.0), (0.0, 0.5, 1.0, 0.5))
TOOL_SEGMENT = (2, 2), slice(40, 75)  # of this group's sample, these response tokens
MASKED_SAMPLE = (2, 4)
LEAST_SURPRISAL = 5.375
MEAN_ABOVE_LEAST = (0.2, 0.4, 0.2)


def ragged_batches(seed: int, *, shrunk: int = 1) -> list[RolloutBatch]:
    """The batches of three steps; other seeds give other tokens.

    Args:
        shrunk: every length is divided by it, and rounded up.
    """
    generator = torch.Generator().manual_seed(seed)
    return [_batch(generator, mean, shrunk) for mean in MEAN_ABOVE_LEAST]


def _batch(generator: torch.Generator, mean_above_least: float, shrunk: int) -> RolloutBatch:
    prompts = [-(-length // shrunk) for length in PROMPTS]
    responses = [[-(-length // shrunk) for length in lengths] for lengths in RESPONSES]
    token_ids, masks, surprisals = [], [], []
    for group, (prompt_length, response_lengths) in enumerate(zip(prompts, responses, strict=True)):
        prompt = torch.randint(VOCAB_SIZE, (prompt_length,), generator=generator)
        for sample, length in enumerate(response_lengths):
            response = torch.randint(VOCAB_SIZE, (length,), generator=generator)
            surprisal = torch.empty(length).exponential_(1 / mean_above_least, generator=generator)
            if (group, sample) == (0, 3):
                response, surprisal = token_ids[-1][prompt_length:], surprisals[-1]
            token_ids.append(torch.cat([prompt, response]))
            masks.append(_mask(group, sample, length, shrunk))
            surprisals.append(LEAST_SURPRISAL + (surprisal * 16).round() / 16)
    sizes = [len(responses) for responses in RESPONSES]
    return RolloutBatch(
        token_ids=torch.cat(token_ids),
        prompt_lengths=torch.tensor(prompts).repeat_interleave(torch.tensor(sizes)),
        response_lengths=torch.tensor([n for lengths in responses for n in lengths]),
        loss_mask=torch.cat(masks),
        rollout_logprobs=-torch.cat(surprisals),
        rewards=torch.tensor([reward for rewards in REWARDS for reward in rewards]),
        verdicts=torch.tensor([float(r > 0) for rewards in REWARDS for r in rewards]),
        group_ids=torch.arange(len(PROMPTS)).repeat_interleave(torch.tensor(sizes)),
    )


def _mask(group: int, sample: int, length: int, shrunk: int) -> Tensor:
    mask = torch.full((length,), (group, sample) != MASKED_SAMPLE)
    tool_sample, segment = TOOL_SEGMENT
    if (group, sample) == tool_sample:
        mask[segment.start // shrunk : segment.stop // shrunk] = False
    return mask


def with_turns(batch: RolloutBatch) -> RolloutBatch:
    """Responses in turns of 7 tokens, of two players, some in the same state."""
    turns = torch.cat([torch.arange(length) // 7 for length in batch.response_lengths.tolist()])
    rewards = (batch.sample_ids + turns) % 4 / 4
    anchors = (batch.sample_ids + turns) % 3
    failed = ((batch.sample_ids + turns) % 3 == 0).long()
    said = {"turn_rewards": rewards, "anchors": anchors, "roles": turns % 2}
    return replace(batch, turns=turns, **said, failed_calls=failed)


def permuted(batch: RolloutBatch, order: Sequence[int]) -> tuple[RolloutBatch, Tensor]:
    """The batch with its samples in another order, and where each of its R tokens stood before."""
    tokens = _spans(batch.lengths, order)
    response_tokens = _spans(batch.response_lengths, order)
    of_response = ("loss_mask", "rollout_logprobs", "turns", "turn_rewards", "anchors", "roles")
    of_response += ("failed_calls",)
    index = {"token_ids": tokens, **dict.fromkeys(of_response, response_tokens)}
    samples = torch.as_tensor(order)
    return replace(
        batch,
        **{
            field.name: getattr(batch, field.name)[index.get(field.name, samples)]
            for field in fields(batch)
            if getattr(batch, field.name) is not None
        },
    ), response_tokens


def _spans(lengths: Tensor, order: Sequence[int]) -> Tensor:
    return torch.cat([torch.arange(int(lengths.sum())).split(lengths.tolist())[i] for i in order])
