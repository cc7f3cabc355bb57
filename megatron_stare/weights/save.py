"""A stream of tensors into a Hugging Face folder that exists complete or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from megatron_stare.errors import UserError
from megatron_stare.weights.folders import replacing
from megatron_stare.weights.hf_config import ModelShape, read_hf_config
from megatron_stare.weights.names import model_entries
from megatron_stare.weights.safetensors_folder import INDEX_FILE, SINGLE_FILE

COPIED_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",
)
"""What comes from the source folder, where it has it."""


def save_hf_folder(
    tensors: Iterable[tuple[str, Tensor]],
    source: Path,
    destination: Path,
    *,
    dtype: torch.dtype,
    write: bool = True,
    overwrite: bool = False,
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Write `destination` from a stream of tensors and the files of `source`.

    The folder is built beside `destination`, flushed to disk and renamed. An overwritten folder is
    moved aside just before and deleted just after, so a complete one exists at every moment.

    Args:
        tensors: every tensor of the network by Hugging Face name, as `export_hf_tensors` yields.
        source: the folder whose config.json, tokenizer and generation config are copied.
        dtype: what the tensors are stored in.
        write: False on ranks that take part in the export but do not write: they exhaust `tensors`.
        overwrite: replace an existing folder.
        max_shard_bytes: size of a safetensors file, and bound of the host memory used, unless one
            tensor alone is larger.

    Raises:
        UserError: `destination` exists and is not to be overwritten.
        OSError: the folder cannot be written.
        ValueError: `tensors` are not those of the network in `source`.
    """
    if not write:
        for _ in tensors:
            pass
        return
    source, destination = Path(source), Path(destination)
    if destination.exists() and not overwrite:
        raise UserError(f"{destination}: exists; expected a path to create")
    shape = read_hf_config(source)
    with replacing(destination) as folder:
        copy_files(source, folder)
        write_config(shape, folder, dtype)
        _write_weights(tensors, shape, dtype, _Shards(folder, max_shard_bytes))


def copy_files(source: Path, folder: Path) -> None:
    """Tokenizer, chat template and generation config."""
    for name in COPIED_FILES:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name)
        elif (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def write_config(shape: ModelShape, folder: Path, dtype: torch.dtype) -> None:
    """The `config.json` of weights stored in `dtype`."""
    config = {key: value for key, value in shape.raw.items() if key != "torch_dtype"}
    config |= {"dtype": str(dtype).removeprefix("torch."), "tie_word_embeddings": shape.tied}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


@dataclass(slots=True)
class _Shards:
    """Tensors on their way into safetensors files, one file's worth in memory."""

    folder: Path
    max_bytes: int
    pending: dict[str, Tensor] = field(default_factory=dict)
    written: list[list[str]] = field(default_factory=list)
    """Tensor names of each file."""
    total_bytes: int = 0

    def add(self, name: str, tensor: Tensor) -> None:
        pending_bytes = sum(other.nbytes for other in self.pending.values())
        if self.pending and pending_bytes + tensor.nbytes > self.max_bytes:
            self._write_pending()
        self.pending[name] = tensor
        self.total_bytes += tensor.nbytes

    def finish(self) -> None:
        """Write the last file; name the files, now that their number is known, and index them."""
        self._write_pending()
        if len(self.written) == 1:
            self._part(1).rename(self.folder / SINGLE_FILE)
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self.written, start=1):
            file = f"model-{number:05d}-of-{len(self.written):05d}.safetensors"
            self._part(number).rename(self.folder / file)
            weight_map |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": self.total_bytes}, "weight_map": weight_map}
        (self.folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")

    def _write_pending(self) -> None:
        self.written.append(list(self.pending))
        try:
            save_file(self.pending, self._part(len(self.written)), metadata={"format": "pt"})
        except SafetensorError as error:  # What it makes of a disk that is full.
            raise OSError(str(error)) from error
        self.pending.clear()

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number}.safetensors"


def _write_weights(
    tensors: Iterable[tuple[str, Tensor]], shape: ModelShape, dtype: torch.dtype, shards: _Shards
) -> None:
    written: list[str] = []
    for name, tensor in tensors:
        # A copy even where nothing is converted: exported tensors share storage.
        shards.add(name, tensor.to("cpu", dtype, copy=True).contiguous())
        written.append(name)
    shards.finish()
    expected = {name for entry in model_entries(shape).values() for name in entry.hf}
    if sorted(written) != sorted(expected):
        raise ValueError(f"wrote the tensors {sorted(written)}, expected {sorted(expected)}")
