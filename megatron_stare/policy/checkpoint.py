"""A policy's whole state on disk, in Megatron-Core's torch_dist format.

    decoder.layers.mlp.linear_fc1.weight, ...   the model under Megatron's own keys
    optimizer.state.exp_avg.<model key>, ...    the optimizer, tensor by tensor like the model
    updates, rng                                the schedule's position; random states of each rank

Tensors are stored whole, whatever ranks they were gathered from, so that any other layout can load
them. Random states are those of a rank, and are loaded by the same number of ranks only.

A save has three parts, so that the run may go on during the second:

    begin_save     collective: says who writes what
    write          no communication, in any thread: copies it to the host, then writes the copy;
                   the policy does not change before it is copied
    write_index    on rank 0; the folder can be loaded from then on
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_inplace
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, apply_factories
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from megatron.core.tensor_parallel.random import CudaRNGStatesTracker
from megatron.core.transformer.module import MegatronModule
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import WriteItem
from torch.distributed.checkpoint.storage import WriteResult

from megatron_stare.policy.loading import load_sharded
from megatron_stare.policy.optimizer_state import (
    describe_for_loading,
    describe_for_saving,
    load_state,
)
from megatron_stare.policy.platform import quietly
from megatron_stare.policy.sharded_state import load_parameters, sharded_parameters
from megatron_stare.policy.staging import Staging
from megatron_stare.policy.step import Policy
from megatron_stare.system.durable_file import DurableFile, FileRecord


@dataclass(frozen=True, slots=True)
class Written:
    """Files of a rank by name, and what is where in them."""

    files: dict[str, FileRecord]
    places: list[WriteResult]


class PolicyWrite:
    """A save under way: `write` on every rank, then `write_index` on rank 0.

    is_copied  set when what is to be written may change
    """

    def __init__(
        self,
        writer: FileSystemWriterAsync,
        metadata: Metadata,
        staging: Staging,
    ) -> None:
        self._writer = writer
        self._metadata = metadata
        self._staging = staging
        self.is_copied = threading.Event()

    def write(self) -> Written:
        """Copy what may change, then write this rank's files, and have them reach the disk.

        Raises:
            OSError: they could not be written.
        """
        try:
            files = self._copy()
        finally:
            self.is_copied.set()
        written = Written({}, [])
        for path, blobs, tensors in files:
            with DurableFile(path) as file:
                for item, blob in blobs:
                    start, length = file.tell(), file.write(blob.getbuffer())
                    written.places.append(_place(item, path, start, length))
                for item, tensor in tensors:
                    written.places.append(_place(item, path, *file.write_tensor(tensor)))
                written.files[path.name] = file.finish()
        return written

    def _copy(self) -> list[tuple[Path, list, list[tuple[WriteItem, Tensor]]]]:
        """Files by path: blobs, and tensors on the host that nobody changes.

        What was put together for the save alone is let go of on its device.
        """
        buckets, self._writer.write_buckets = self._writer.write_buckets or [], []
        return [
            (
                Path(path),
                blobs,
                [(item, self._staging.copy(item.index, tensor)) for item, tensor in tensors],
            )
            for path, _, (blobs, tensors) in buckets
        ]

    def write_index(self, results: list[list[WriteResult]]) -> None:
        """Write what the folder is loaded by, from what `write` returned on every rank.

        Raises:
            OSError: it could not be written.
        """
        self._writer.finish(self._metadata, results)
        save_config(CheckpointingConfig("torch_dist", 1), str(self._writer.checkpoint_dir))


def _place(item: WriteItem, path: Path, start: int, length: int) -> WriteResult:
    return WriteResult(item.index, length, _StorageInfo(path.name, start, length))


class _PlannedSave(TorchDistSaveShardedStrategy):
    """Megatron's plan of a save, without its ways of writing: they cannot tell of a full disk."""

    plan: tuple[FileSystemWriterAsync, Metadata]

    def _get_save_and_finalize_callbacks(self, writer, save_state_dict_ret, async_strategy):
        self.plan = writer, save_state_dict_ret[1]
        return super()._get_save_and_finalize_callbacks(writer, save_state_dict_ret, async_strategy)


def begin_save(policy: Policy, folder: Path, staging: Staging) -> PolicyWrite:
    """Settle what is to be written into `folder`, which is empty. Collective.

    The policy waits for the copy before it changes: `write` has to be called, in another thread.

    Args:
        staging: memory for the copies, in use until all is written.
    """
    # It is written from a thread: a queue of the process itself will do for the results.
    filesystem_async._results_queue = queue.Queue()  # pyright: ignore[reportAttributeAccessIssue]
    model = _model_state(policy)
    state = {
        "model": model,
        "optimizer": describe_for_saving(policy.optimizer, model),
        "rng": _rng_object(_rng_state()),
        "updates": policy.scheduler.num_steps,
    }
    apply_factories(state)
    dict_list_map_inplace(_alone, state)
    save = _PlannedSave()
    with quietly():
        dist_checkpointing.save(
            state, str(folder), save, async_sharded_save=True, async_strategy="mcore"
        )
    staging.begin(policy.device)
    write = PolicyWrite(*save.plan, staging)
    policy.before_change = write.is_copied.wait
    return write


def _alone(entry: Any) -> Any:
    """With the same memory as a storage of its own: Megatron copies parts of a storage."""
    if not isinstance(entry, ShardedTensor) or entry.data is None:
        return entry
    data = entry.data.detach().contiguous()
    start = data.storage_offset() * data.itemsize
    storage = data.untyped_storage()[start : start + data.nbytes]
    alone = torch.empty(0, dtype=data.dtype, device=data.device)
    return replace(entry, data=alone.set_(storage, 0, data.shape, data.stride()))


def load_policy(policy: Policy, folder: Path, *, is_same_world: bool) -> None:
    """Take over a saved state, of any layout. Collective.

    Learning rate, weight decay and the like stay those of the policy's own config. Random states
    are loaded where `is_same_world`: with as many ranks as saved them. Of these, those of a kind of
    device are loaded on that kind.

    Raises:
        UserError: a file holds more than data, or is damaged.
    """
    model = _model_state(policy)
    wanted = {"model": model, "optimizer": describe_for_loading(policy.optimizer, model)}
    if is_same_world:
        wanted["rng"] = _rng_object(None)
    # Of the ranks that share a tensor, those without a part of its moments do not ask for them.
    state = load_sharded(wanted, folder, validate_access_integrity=False)
    for number, chunk in enumerate(policy.model):
        load_parameters(cast(MegatronModule, chunk.module), state["model"][number])
    load_state(policy.optimizer, state["optimizer"], num_updates=state["updates"])
    policy.scheduler.num_steps = state["updates"]
    policy.scheduler.step(increment=0)
    if is_same_world:
        set_rng_state(state["rng"])


def _model_state(policy: Policy) -> dict[Any, Any]:
    """This rank's parameters, and their places in those of the whole network, by model chunk."""
    metadata = {"singleton_local_shards": False, "dp_cp_group": policy.groups.dp_cp}
    return {
        number: sharded_parameters(cast(MegatronModule, chunk.module), metadata=metadata)
        for number, chunk in enumerate(policy.model)
    }


def _rng_object(state: dict[str, Any] | None) -> ShardedObject:
    return ShardedObject("rng", state, (dist.get_world_size(),), (dist.get_rank(),))


def _rng_state() -> dict[str, Any]:
    on_gpu = torch.cuda.is_available()
    return {
        "cpu": torch.get_rng_state(),
        "gpu": torch.cuda.get_rng_state() if on_gpu else None,
        "tracker": _rng_tracker().get_states(),
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Take over random states, of the kind of device that they are of."""
    torch.set_rng_state(state["cpu"])
    on_gpu = torch.cuda.is_available()
    if (state["gpu"] is not None) != on_gpu:
        return  # The tracker's are those of the other kind of device, too.
    if on_gpu:
        torch.cuda.set_rng_state(state["gpu"])
    _rng_tracker().set_states(state["tracker"])


def _rng_tracker() -> CudaRNGStatesTracker:
    return cast(CudaRNGStatesTracker, get_cuda_rng_tracker())
