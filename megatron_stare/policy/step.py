"""The policy on this rank: score tokens, update weights, stream them out.

Everything per token is flat over the tokens of this data-parallel rank: micro-batch after
micro-batch, sample after sample (`data.packing.Share`). Scores are on the compute device, and 0 for
tokens under the loss mask, of which the policy is not asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from torch import Tensor

from megatron_stare.algorithms.hooks import HeadNeed
from megatron_stare.data.packing import MicroBatches
from megatron_stare.model_shape import ModelShape
from megatron_stare.ops.head_tiles import KEPT_BYTES
from megatron_stare.ops.partials import TokenScores
from megatron_stare.policy.groups import ParallelGroups
from megatron_stare.policy.inputs import MicroBatchInputs, inputs_of
from megatron_stare.policy.micro_batch_loss import MicroBatchOutput, Objective
from megatron_stare.policy.model import named_parameters
from megatron_stare.policy.schedule import (
    Forward,
    Forwarded,
    Progress,
    go_forward,
    run_schedule,
)
from megatron_stare.types import TokenBatch
from megatron_stare.weights.export import export_hf_tensors
from megatron_stare.weights.finite import first_spoiled


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """One optimizer update, the same on every rank.

    `sums` are the objective's statistics summed over all tokens of the update, by name; `scores`
    are this rank's tokens under the weights before the update. A skipped update changed nothing.
    """

    loss: float
    grad_norm: float
    lr: float
    skipped: bool
    sums: dict[str, float]
    scores: TokenScores


class Measured(NamedTuple):
    """What a pass forward has said of this rank's tokens.

    scores  `[r]` each
    rows    of each need of the head, float32 `[rows, r]`
    graphs  what was kept of the first micro-batches, for `Policy.update`
    """

    scores: TokenScores
    rows: Sequence[Tensor]
    graphs: Sequence[TokenScores]


def _silent(_: int) -> None:
    pass


def _at_once() -> None:
    pass


class Policy:
    """A Megatron-Core model with its optimizer.

    Args:
        model: the chunks of this rank's pipeline stage, wrapped for data parallelism.
        optimizer: Megatron's, over the same chunks.
        scheduler: steps once per update.
        shape: the whole network.
        groups: the process groups of this rank.
        temperature: divides the logits wherever log-probs are computed, but of tokens that were
            drawn at one of their own.
    """

    def __init__(
        self,
        model: Sequence[DistributedDataParallel],
        optimizer: MegatronOptimizer,
        scheduler: OptimizerParamScheduler,
        shape: ModelShape,
        groups: ParallelGroups,
        *,
        temperature: float,
        device: torch.device,
    ) -> None:
        self.model = list(model)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.shape = shape
        self.groups = groups
        self.temperature = temperature
        self.device = device
        self.before_change: Callable[[], object] = _at_once
        """Called before weights or optimizer state change: returns when nobody reads them."""

    def score(
        self, batch: TokenBatch, micro_batches: MicroBatches, progress: Progress = _silent
    ) -> TokenScores:
        """Scores of this rank's response tokens, `[r]`; on every pipeline stage."""
        return self.measure(batch, micro_batches, (), progress).scores

    def measure(
        self,
        batch: TokenBatch,
        micro_batches: MicroBatches,
        needs: Sequence[HeadNeed[Any]],
        progress: Progress = _silent,
        *,
        num_kept: int = 0,
        with_entropy: bool = False,
    ) -> Measured:
        """Scores, and what else the head is asked, in one pass.

        Args:
            num_kept: of so many micro-batches, the first ones, the graph is kept for `update`, to
                be used before weights change; 0 where the network is split into stages.
            with_entropy: whether these will go backward from their entropies, too.
        """
        graphs: list[TokenScores] = []
        keep_bytes = self._keep_bytes(num_kept)

        def forward(given: MicroBatchInputs, chunk: torch.nn.Module) -> Forwarded:
            is_kept = len(graphs) < num_kept
            with torch.set_grad_enabled(is_kept):
                said = go_forward(
                    *(given, chunk, self.groups.cp),
                    with_entropy=with_entropy,
                    keep_bytes=keep_bytes,
                    measures=needs,
                )
            if is_kept:
                graphs.append(said.output)
            return said

        with torch.no_grad():
            outputs = self._run(batch, micro_batches, progress, forward)
        num_tokens = _num_tokens(batch, micro_batches)
        scores, rest = self._on_every_stage(outputs, num_tokens, sum(need.rows for need in needs))
        return Measured(scores, rest.split([need.rows for need in needs]), graphs)

    def update(
        self,
        batch: TokenBatch,
        micro_batches: MicroBatches,
        objective: Objective,
        progress: Progress = _silent,
        *,
        known: TokenScores | None = None,
        graphs: Sequence[TokenScores] = (),
    ) -> UpdateResult:
        """Forward, backward and one optimizer step; skipped when loss or gradient is not finite.

        Args:
            known: what `score` has said of these micro-batches under these weights. The head then
                goes backward only.
            graphs: of the first of these micro-batches, what `measure` has kept: they go backward
                only.
        """
        waiting = iter(graphs)
        keep_bytes = self._keep_bytes(self.groups.pp.size())

        def forward(given: MicroBatchInputs, chunk: torch.nn.Module) -> Forwarded:
            if (output := next(waiting, None)) is not None:
                return Forwarded(output)
            return go_forward(
                *(given, chunk, self.groups.cp),
                known=known,
                with_entropy=objective.differentiates_entropy,
                keep_bytes=keep_bytes,
            )

        for chunk in self.model:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        outputs = self._run(batch, micro_batches, progress, forward, objective)
        loss, *sums = self._sum_over_ranks([output.sums for output in outputs], objective)
        self.optimizer.prepare_grads()
        grad_norm = float(self.optimizer.get_grad_norm())
        is_finite = math.isfinite(loss) and math.isfinite(grad_norm)
        if is_finite:
            # The schedule counts updates from 1, so that the first one has a learning rate.
            self.scheduler.step(increment=1)
            self.before_change()
            self.optimizer.step()
        return UpdateResult(
            loss=loss,
            grad_norm=grad_norm,
            lr=self.optimizer.param_groups[0]["lr"],
            skipped=not is_finite,
            sums=dict(zip(objective.stat_names, sums, strict=True)),
            scores=self._on_every_stage(outputs, _num_tokens(batch, micro_batches))[0],
        )

    def hf_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Full tensors by Hugging Face name, streamed.

        Collective over tensor, pipeline and expert ranks: each of them exhausts the iterator. Where
        nothing splits the experts, only rank 0 of `dp_cp` has anything to iterate over.
        """
        if self.groups.ep.size() == 1 and self.groups.dp_cp.rank() != 0:
            return iter(())
        return export_hf_tensors(
            dict(self.named_parameters()),
            self.shape,
            tp_group=self.groups.tp,
            pp_group=self.groups.pp,
            ep_group=self.groups.ep,
        )

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters of this rank under their Transformer Engine names, global layer indices."""
        yield from self._parameters.items()

    @cached_property
    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        return named_parameters([chunk.module for chunk in self.model])

    def spoiled_weight(self) -> str | None:
        """The first parameter, of any rank, that is not finite or far too large. Collective.

        None where all are sound.
        """
        found = first_spoiled(self.named_parameters())
        is_any = torch.tensor(found is not None, dtype=torch.int32, device=self.device)
        dist.all_reduce(is_any, op=dist.ReduceOp.MAX)
        if not is_any:
            return None
        names: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(names, found)
        return next(name for name in names if name is not None)

    @contextmanager
    def weights_swapped_for(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Run with other weights, a copy of `named_parameters` from earlier, then swap back.

        Meanwhile `weights`, on whatever device, hold those of the policy.
        """
        self._swap_weights(weights)
        try:
            yield
        finally:
            self._swap_weights(weights)

    def _swap_weights(self, weights: Mapping[str, Tensor]) -> None:
        self.before_change()
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                current = parameter.clone()
                parameter.copy_(weights[name])
                weights[name].copy_(current)

    def _run(
        self,
        batch: TokenBatch,
        micro_batches: MicroBatches,
        progress: Progress,
        forward: Forward,
        objective: Objective | None = None,
    ) -> list[MicroBatchOutput]:
        # What the schedule needs to be complete: micro-batches without samples, on every rank.
        idle = -len(micro_batches) % self.groups.schedule_multiple
        inputs = inputs_of(
            *(batch, [*micro_batches, *[()] * idle], self.groups),
            temperature=self.temperature,
            device=self.device,
        )
        return run_schedule(self.model, inputs, forward, progress, objective)

    def _keep_bytes(self, num_waiting: int) -> int:
        """Of a micro-batch's logits, where at most so many wait for their backward at a time."""
        return KEPT_BYTES[self.device.type] // max(num_waiting, 1)

    def _on_every_stage(
        self, outputs: Sequence[MicroBatchOutput], num_tokens: int, num_more: int = 0
    ) -> tuple[TokenScores, Tensor]:
        """The scores, and the rows that were measured beside them."""
        num_scores = len(TokenScores._fields)
        stacked = torch.empty(num_scores + num_more, num_tokens, device=self.device)
        if outputs:
            torch.cat([output.scores for output in outputs], dim=1, out=stacked)
        self._broadcast_from_last_stage(stacked)
        return TokenScores(*stacked[:num_scores]), stacked[num_scores:]

    def _sum_over_ranks(self, sums: Sequence[Tensor], objective: Objective) -> list[float]:
        """The loss and the statistics, summed over micro-batches and data-parallel ranks."""
        total = torch.zeros(1 + len(objective.stat_names), dtype=torch.float64, device=self.device)
        for part in sums:
            total += part
        dist.all_reduce(total, group=self.groups.dp)
        self._broadcast_from_last_stage(total)
        return total.tolist()

    def _broadcast_from_last_stage(self, tensor: Tensor) -> None:
        pp = self.groups.pp
        if pp.size() > 1:
            dist.broadcast(tensor, src=dist.get_global_rank(pp, pp.size() - 1), group=pp)


def _num_tokens(batch: TokenBatch, micro_batches: MicroBatches) -> int:
    samples = [sample for micro_batch in micro_batches for sample in micro_batch]
    return int(batch.response_lengths[samples].sum())


def sum_gradients(model: list[torch.nn.Module], num_tokens: Tensor | None, **options) -> None:
    """Megatron's gradient reduction without its division: gradients are sums over all tokens."""
    finalize_model_grads(model, None, **options)
