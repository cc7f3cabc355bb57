"""Process groups of this rank, passed explicitly to everything that communicates.

Ranks are laid out with tensor parallelism innermost and pipeline stages outermost: rank = tp_rank +
tp_size * (cp_rank + cp_size * (dp_rank + dp_size * pp_rank)). Tensor parallelism does not split an
expert: for experts, rank = ep_rank + ep_size * (expt_dp_rank + expt_dp_size * pp_rank).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from torch.distributed import ProcessGroup

from megatron_stare.config.policy import ParallelConfig
from megatron_stare.policy.platform import install_cpu_platform
from megatron_stare.system.timeouts import COLLECTIVE_TIMEOUT


@dataclass(frozen=True, slots=True)
class ParallelGroups:
    """The groups that this rank belongs to.

    tp          ranks that share each layer
    cp          ranks that share each sample; after the head they hold the same scores
    pp          one rank of each pipeline stage, in order
    dp          ranks that hold the same parameters and see different samples
    dp_cp       both: ranks that hold the same parameters, over which gradients are summed
    ep          ranks that share the experts of a layer: neighbours, whatever else they share
    expt_dp     ranks that hold the same experts, over which their gradients are summed
    embd        first and last stage, which both hold tied embeddings; None on the stages between
    collection  all of Megatron's groups
    """

    tp: ProcessGroup
    cp: ProcessGroup
    pp: ProcessGroup
    dp: ProcessGroup
    dp_cp: ProcessGroup
    ep: ProcessGroup
    expt_dp: ProcessGroup
    embd: ProcessGroup | None
    collection: ProcessGroupCollection
    sequence_multiple: int
    """Micro-batches are padded to a multiple of this many tokens, over all context ranks."""
    schedule_multiple: int
    """The interleaved schedule takes a multiple of this many micro-batches."""

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank holds the embedding."""
        return self.pp.rank() == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank computes log-probs and the loss."""
        return self.pp.rank() == self.pp.size() - 1


def build_groups(parallel: ParallelConfig) -> ParallelGroups:
    """Split the world of torch.distributed, which is initialised, as `parallel` says.

    Collective. The world's size is a multiple of `parallel.replica`.
    """
    is_cpu = install_cpu_platform()
    with _one_group_of_the_same_ranks() if is_cpu else contextlib.nullcontext():
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=parallel.tensor,
            pipeline_model_parallel_size=parallel.pipeline,
            virtual_pipeline_model_parallel_size=chunks_of_a_stage(parallel),
            context_parallel_size=parallel.context,
            expert_model_parallel_size=parallel.expert,
            # Whole experts: parts of unequal length would be gathered, which gloo cannot do.
            expert_tensor_parallel_size=1,
            distributed_timeout_minutes=COLLECTIVE_TIMEOUT // timedelta(minutes=1),
            # The groups' own backend serves optimizer state too; a gloo copy of each has no reader.
            create_gloo_process_groups=False,
        )
    collection = ProcessGroupCollection.use_mpu_process_groups()
    return ParallelGroups(
        tp=collection.tp,
        cp=collection.cp,
        pp=collection.pp,
        dp=collection.dp,
        dp_cp=collection.dp_cp,
        ep=collection.ep,
        expt_dp=collection.expt_dp,
        embd=collection.embd,
        collection=collection,
        sequence_multiple=_sequence_multiple(parallel),
        schedule_multiple=parallel.pipeline if parallel.virtual_pipeline > 1 else 1,
    )


@contextlib.contextmanager
def _one_group_of_the_same_ranks() -> Iterator[None]:
    """Let Megatron's groups of the same ranks be one: each of gloo's wakes up 95 times a second.

    Of its 21 for one rank, one is left. Every rank makes them in the same order, so all ranks
    share the same ones. On GPUs each keeps its own, so that their collectives can overlap.
    """
    create = parallel_state.create_group
    made: dict[tuple[int, ...], Any] = {}

    def create_once(ranks: Sequence[int], **options: Any) -> Any:
        key = tuple(ranks)
        if key not in made:
            made[key] = create(ranks, **options)
        return made[key]

    parallel_state.create_group = create_once
    try:
        yield
    finally:
        parallel_state.create_group = create


def chunks_of_a_stage(parallel: ParallelConfig) -> int | None:
    """What Megatron calls the virtual pipeline size: None without interleaving."""
    return parallel.virtual_pipeline if parallel.virtual_pipeline > 1 else None


def _sequence_multiple(parallel: ParallelConfig) -> int:
    """Makes each context rank's part of a pack even, and its tensor group's parts of that equal."""
    tensor = parallel.tensor if parallel.sequence else 1
    return parallel.context * math.lcm(2, tensor) if parallel.context > 1 else tensor


def destroy_groups() -> None:
    """Forget the groups, so that `build_groups` can be called again in this process."""
    parallel_state.destroy_model_parallel()
