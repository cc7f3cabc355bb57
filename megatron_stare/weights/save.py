"""A stream of tensors into a Hugging Face folder that exists complete or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from megatron_stare.errors import UserError
from megatron_stare.model_shape import ModelShape
from megatron_stare.system.cached_io import CachedWriter
from megatron_stare.system.folders import replacing
from megatron_stare.weights.checked import checked
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.names import hf_shapes
from megatron_stare.weights.safetensors_writer import SafetensorsWriter, TensorSpec

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
        max_shard_bytes: size of a safetensors file, unless one tensor alone is larger.

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
        _write_weights(tensors, shape, dtype, folder, max_shard_bytes)


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


def _write_weights(
    tensors: Iterable[tuple[str, Tensor]],
    shape: ModelShape,
    dtype: torch.dtype,
    folder: Path,
    max_shard_bytes: int,
) -> None:
    shapes = hf_shapes(shape)
    specs = {name: TensorSpec(dtype, size) for name, size in shapes.items()}
    with CachedWriter() as cached:
        writer = SafetensorsWriter(specs, max_shard_bytes, cached.write_part)
        writer.create(folder)
        for name, tensor in checked(tensors, shapes):
            writer.write(folder, {name: tensor.detach().to("cpu", dtype)})
