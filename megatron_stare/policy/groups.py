"""Process groups of this rank, passed explicitly to everything that communicates.

Ranks are laid out with tensor parallelism innermost and pipeline stages outermost: rank = tp_rank +
tp_size * (dp_rank + dp_size * pp_rank).
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from torch.distributed import ProcessGroup

from megatron_stare.config import ParallelConfig
from megatron_stare.policy.platform import install_cpu_platform


@dataclass(frozen=True, slots=True)
class ParallelGroups:
    """The groups that this rank belongs to.

    tp          ranks that share each layer
    pp          one rank of each pipeline stage, in order
    dp          ranks that hold the same parameters and see different samples
    embd        first and last stage, which both hold tied embeddings; None on the stages between
    collection  all of Megatron's groups
    """

    tp: ProcessGroup
    pp: ProcessGroup
    dp: ProcessGroup
    embd: ProcessGroup | None
    collection: ProcessGroupCollection
    sequence_multiple: int
    """Packed micro-batches are padded to a multiple of this many tokens (sequence parallelism)."""

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank holds the embedding."""
        return self.pp.rank() == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank computes log-probs and the loss."""
        return self.pp.rank() == self.pp.size() - 1

    def layer_offset(self, num_layers: int) -> int:
        """Global index of this stage's first layer, of `num_layers` in the network."""
        return self.pp.rank() * (num_layers // self.pp.size())


def build_groups(parallel: ParallelConfig) -> ParallelGroups:
    """Split the world of torch.distributed, which is initialised, as `parallel` says.

    Collective. The world's size is a multiple of `parallel.tensor * parallel.pipeline`.
    """
    install_cpu_platform()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        # The groups' own backend serves optimizer state too; a gloo copy of each has no reader.
        create_gloo_process_groups=False,
    )
    collection = ProcessGroupCollection.use_mpu_process_groups()
    return ParallelGroups(
        tp=collection.tp,
        pp=collection.pp,
        dp=collection.dp,
        embd=collection.embd,
        collection=collection,
        sequence_multiple=parallel.tensor if parallel.sequence else 1,
    )


def destroy_groups() -> None:
    """Forget the groups, so that `build_groups` can be called again in this process."""
    parallel_state.destroy_model_parallel()
