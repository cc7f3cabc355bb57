"""Loading of checkpoints by Megatron-Core and torch, from which nothing runs.

Both unpickle what a checkpoint holds beside tensors; meanwhile they read it as data (`untrusted`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from megatron.core import dist_checkpointing
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import ReadItem

from megatron_stare.errors import UserError
from megatron_stare.policy.platform import quietly
from megatron_stare.system.untrusted import load_data
from megatron_stare.weights.checkpoint_index import read_index

_COMMON_FILE = "common.pt"
"""Where older versions keep what is not sharded."""


def load_sharded(wanted: dict[str, Any], folder: Path, **options: Any) -> dict[str, Any]:
    """`dist_checkpointing.load` of a torch_dist checkpoint, as data. Collective.

    Args:
        options: of `dist_checkpointing.load`.

    Raises:
        UserError: a file names a function or class that is not needed to read it, or is damaged.
    """
    if (folder / _COMMON_FILE).exists():
        load_data(folder / _COMMON_FILE, folder / _COMMON_FILE)
    try:
        with quietly(), _as_data(folder):
            return cast(dict[str, Any], dist_checkpointing.load(wanted, str(folder), **options))
    except CheckpointException as error:
        for failure, _ in error.failures.values():
            if isinstance(failure, UserError):
                raise failure from None
        raise


@contextmanager
def _as_data(folder: Path) -> Iterator[None]:
    """Meanwhile neither the index of a checkpoint nor its objects can have anything run."""

    def read_metadata(self: FileSystemReader, *_: Any, **__: Any) -> Metadata:
        return read_index(Path(self.path))

    def load_bytes(self: DefaultLoadPlanner, read_item: ReadItem, value: io.BytesIO) -> None:
        assert self.metadata is not None
        file = folder / self.metadata.storage_data[read_item.storage_index].relative_path
        key = read_item.dest_index.fqn
        content = load_data(value, f"{file}: {key}")
        if self.flatten_state_dict:
            set_element(self.original_state_dict, self.mappings[key], content)
        else:
            self.state_dict[key] = content

    before = FileSystemReader.read_metadata, DefaultLoadPlanner.load_bytes
    FileSystemReader.read_metadata, DefaultLoadPlanner.load_bytes = read_metadata, load_bytes
    try:
        yield
    finally:
        FileSystemReader.read_metadata, DefaultLoadPlanner.load_bytes = before
