"""Weights through a folder that both sides can read.

trainer   writes a Hugging Face folder, `version_000007`, beside the servers' work
servers   pause, load it, drop their caches
trainer   removes the folder before
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from megatron_stare.engines.sglang.sync.recipients import Recipients
from megatron_stare.engines.sglang.sync.weights import Weights
from megatron_stare.errors import UserError
from megatron_stare.weights.save import save_hf_folder


class DiskTransport:
    """See `Transport`. Writes weights of the network in `model_folder` to folders in `folder`."""

    def __init__(self, model_folder: Path, folder: Path) -> None:
        self._model_folder = model_folder
        self._dir = folder.resolve()
        self._written: list[Path] = []

    def send(self, weights: Weights, recipients: Recipients) -> None:
        """See `Transport`. Raises UserError, too, where the folder cannot be written."""
        folder = self._dir / f"version_{weights.version:06d}"
        self._written.append(folder)
        self._write(weights, folder)
        recipients.run(recipients.pause())
        loading = recipients.post(
            "/update_weights_from_disk",
            model_path=str(folder),
            weight_version=str(weights.version),
            flush_cache=True,
        )
        recipients.run(loading)
        self._keep_only(folder)

    def close(self, run) -> None:
        """See `Transport`."""
        self._keep_only(None)

    def _write(self, weights: Weights, folder: Path) -> None:
        try:
            save_hf_folder(
                _hashed(weights),
                source=self._model_folder,
                destination=folder,
                dtype=weights.dtype,
                overwrite=True,
            )
        except OSError as error:
            raise UserError(
                f"rollout.servers.weights_dir: cannot write {folder} ({error}); expected a folder "
                "with room for the weights that the servers can read"
            ) from error

    def _keep_only(self, folder: Path | None) -> None:
        """Remove the other folders that were written."""
        for other in [path for path in self._written if path != folder]:
            shutil.rmtree(other, ignore_errors=True)
            self._written.remove(other)


def _hashed(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """The tensors in the servers' dtype, entered into the checksums."""
    for name, tensor in weights.tensors:
        stored = tensor.to(weights.dtype)
        weights.checksums.add(name, stored)
        yield name, stored
