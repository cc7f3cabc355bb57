"""One pass of Megatron's schedule over micro-batches, and a chunk of the model inside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor
from torch.distributed import ProcessGroup

from megatron_stare.algorithms.hooks import HeadNeed
from megatron_stare.ops.partials import TokenScores
from megatron_stare.policy.head import HeadInputs, logprob_entropy_head
from megatron_stare.policy.inputs import MicroBatchInputs
from megatron_stare.policy.micro_batch_loss import MicroBatchOutput, Objective, loss_of

Progress = Callable[[int], None]
"""Called with the response tokens of each micro-batch as it is done."""


class Forwarded(NamedTuple):
    """A micro-batch behind a chunk of the model.

    output    `TokenScores` behind the last one, hidden states behind the others
    measured  what else the head was asked, float32 `[rows, num_tokens]` each
    """

    output: Any
    measured: Sequence[Tensor] = ()


Forward = Callable[[MicroBatchInputs, torch.nn.Module], Forwarded]


def run_schedule(
    model: Sequence[torch.nn.Module],
    inputs: Sequence[MicroBatchInputs],
    forward: Forward,
    progress: Progress,
    objective: Objective | None,
) -> list[MicroBatchOutput]:
    """Forward, and with an objective backward; outputs exist on the last pipeline stage only.

    Args:
        model: the chunks of this rank's stage.
    """

    def forward_step(iterator: Iterator[MicroBatchInputs], chunk: torch.nn.Module):
        given = next(iterator)
        said = forward(given, chunk)
        if chunk is model[-1]:
            progress(given.packed.num_tokens)
        return said.output, partial(loss_of, objective, given.tokens, said.measured)

    return get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=[iter(inputs) for _ in model],
        model=[*model],
        num_microbatches=len(inputs),
        seq_length=max(given.packed.input_ids.numel() for given in inputs),
        micro_batch_size=1,
        forward_only=objective is None,
    )


def go_forward(
    given: MicroBatchInputs,
    chunk: torch.nn.Module,
    cp_group: ProcessGroup,
    *,
    known: TokenScores | None = None,
    with_entropy: bool = False,
    keep_bytes: int = 0,
    measures: Sequence[HeadNeed[Any]] = (),
) -> Forwarded:
    """A micro-batch through a chunk of the model; the rest is as in `HeadInputs`.

    Args:
        known: of all tokens of this rank.
    """
    packed = given.packed
    said = None if known is None else known.at(given.tokens)
    asked = HeadInputs(
        *(packed, given.temperature, cp_group, said, with_entropy, keep_bytes, measures)
    )
    output = chunk(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        attention_mask=None,
        packed_seq_params=packed.packed_seq_params,
        output_processor=logprob_entropy_head,
        output_processor_context=asked,
    )
    return Forwarded(output, asked.measured)
