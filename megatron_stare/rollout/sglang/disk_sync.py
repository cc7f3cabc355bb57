"""Weights to servers through a folder that both sides can read.

trainer   writes a Hugging Face folder, `version_000007`, and hashes tensors on their way
servers   pause -> load it -> drop the cache -> checksums -> continue
trainer   compares the checksums, and removes older folders
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_stare.errors import UserError
from megatron_stare.rollout.sglang.checksums import Checksums, Hashing
from megatron_stare.rollout.sglang.client import Server
from megatron_stare.weights.hf_config import ModelShape
from megatron_stare.weights.names import model_entries
from megatron_stare.weights.save import save_hf_folder


class DiskSync:
    """Writes weights of the network in `model_folder` to folders in `weights_dir`."""

    def __init__(self, model_folder: Path, shape: ModelShape, weights_dir: Path) -> None:
        self._model_folder = model_folder
        self._expected = {
            name: size for entry in model_entries(shape).values() for name, size in entry.hf.items()
        }
        self._hashing = Hashing(self._expected)
        self._dir = weights_dir.resolve()
        self._has_hashed_all = False
        self._written: list[Path] = []

    def write(
        self, tensors: Iterable[tuple[str, Tensor]], version: int, dtype: torch.dtype
    ) -> tuple[Path, Checksums]:
        """Write the folder of a version; consumes `tensors`, which must be the network's.

        Returns the folder and the checksums: of every tensor the first time, later of a share.

        Raises:
            ValueError: a name or a shape is not the network's, or a tensor is missing.
            UserError: the folder cannot be written.
        """
        checksums = self._hashing.checksums(version if self._has_hashed_all else None)
        folder = self._dir / f"version_{version:06d}"
        self._written.append(folder)
        try:
            save_hf_folder(
                _hashed(_checked(tensors, self._expected), dtype, checksums),
                source=self._model_folder,
                destination=folder,
                dtype=dtype,
                overwrite=True,
            )
        except OSError as error:
            raise UserError(
                f"rollout.servers.weights_dir: cannot write {folder} ({error}); expected a folder "
                "with room for the weights that the servers can read"
            ) from error
        self._has_hashed_all = True
        return folder, checksums

    def keep_only(self, folder: Path | None) -> None:
        """Remove the other folders that were written."""
        for other in [path for path in self._written if path != folder]:
            shutil.rmtree(other, ignore_errors=True)
            self._written.remove(other)


async def load_weights(
    server: Server, folder: Path, version: int, *, deadline_s: float
) -> dict[str, str]:
    """Have a server load a folder; its checksums by rank and tensor name.

    Requests that run on it are aborted, and it forgets what it cached under other weights.

    Raises:
        ServerFailure: it does not answer in time, or cannot load them.
        UserError: it cannot read or use the folder.
    """

    async def post(path: str, **body: Any) -> Any:
        return await server.call("POST", path, body, deadline_s=deadline_s)

    await post("/pause_generation", mode="abort")
    try:
        await post(
            "/update_weights_from_disk",
            model_path=str(folder),
            weight_version=str(version),
            flush_cache=True,
        )
        found = await post("/weights_checker", action="checksum")
    finally:
        await post("/continue_generation", torch_empty_cache=False)
    ranks = found["ranks"]
    if len(ranks) == 1:
        return ranks[0]["checksums"]
    return {
        f"rank {rank}: {name}": checksum
        for rank, info in enumerate(ranks)
        for name, checksum in info["checksums"].items()
    }


def _checked(
    tensors: Iterable[tuple[str, Tensor]], expected: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Tensor]]:
    """The same tensors, each seen to be one of the network's: a wrong one would end the server."""
    for name, tensor in tensors:
        if name not in expected:
            raise ValueError(f"weight {name!r} is not a parameter of the servers' model")
        if tuple(tensor.shape) != tuple(expected[name]):
            raise ValueError(
                f"weight {name!r} has shape {list(tensor.shape)}, "
                f"the servers' has {list(expected[name])}"
            )
        yield name, tensor


def _hashed(
    tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype, checksums: Checksums
) -> Iterator[tuple[str, Tensor]]:
    """The same tensors in the servers' dtype, entered into checksums."""
    for name, tensor in tensors:
        stored = tensor.to(dtype)
        checksums.add(name, stored)
        yield name, stored
