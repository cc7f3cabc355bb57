"""Hugging Face weights into live parameters: each rank reads the slices it holds, one at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from megatron_stare.errors import UserError
from megatron_stare.model_shape import ModelShape
from megatron_stare.weights.finite import cast
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.names import model_entries
from megatron_stare.weights.rules import Entry, check_coverage
from megatron_stare.weights.safetensors_folder import LazyTensor, open_tensors

HARMLESS = re.compile(r"rotary_emb\.inv_freq$")
"""Buffers that old transformers saved; they follow from the config."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
COMPARED_ROWS = 8192


@torch.no_grad()
def load_hf_weights(
    params: Mapping[str, Tensor],
    folder: Path,
    shape: ModelShape,
    *,
    tp_rank: int,
    tp_size: int,
) -> None:
    """Fill one rank's parameters of a pipeline stage in place, casting to their dtype.

    Names and shapes of the whole folder are checked on every rank before anything is read, so that
    all ranks meet the same error; values are, as they are read. Beyond the parameters, memory holds
    one slice at a time.

    Args:
        params: the parameters by Megatron name, with global layer and expert indices.
        folder: the Hugging Face folder.
        shape: the network, from the folder's config.json.

    Raises:
        UserError: the folder's tensors are damaged or are not those of its config.json, or a value
            that this rank reads is not finite, or is not in the parameters' dtype.
        ValueError: the parameters are not those of the family's name table.
    """
    entries = model_entries(shape)
    check_coverage(params, entries, tp_size)
    tensors = open_hf_weights(folder, shape)
    for name, param in params.items():
        shard = entries[name].shard(tensors, tp_rank, tp_size)
        param.copy_(cast(shard, param.dtype, f"{folder}: {', '.join(entries[name].hf)}"))


def open_hf_weights(folder: Path, shape: ModelShape) -> dict[str, LazyTensor]:
    """A folder's tensors, seen by their headers to be those of its network.

    Raises:
        UserError: they are damaged, or are not.
    """
    tensors = open_tensors(folder)
    check_tensors(tensors, model_entries(shape).values(), Path(folder))
    return tensors


def hf_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a folder's network, by Hugging Face name, as an engine takes them.

    Raises:
        UserError: they are damaged, or are not those of its config.json.
    """
    shape = read_hf_config(folder)
    tensors = open_hf_weights(folder, shape)
    for entry in model_entries(shape).values():
        for name in entry.hf:
            yield name, tensors[name][:]


def check_tensors(
    tensors: Mapping[str, LazyTensor], entries: Iterable[Entry], folder: Path
) -> None:
    """Check names and shapes of a folder's tensors, and that tied tensors are equal.

    Raises:
        UserError: a tensor is missing, unexpected, of another shape than config.json says, or
            `lm_head.weight` differs from the embedding it should be tied to.
    """
    expected = {name: shape for entry in entries for name, shape in entry.hf.items()}
    if missing := sorted(expected.keys() - tensors.keys()):
        raise UserError(f"{folder}: config.json expects {_some(missing)}, missing in the weights")
    extra = tensors.keys() - expected.keys()
    if unknown := sorted(name for name in extra if name != HEAD and not HARMLESS.search(name)):
        file = tensors[unknown[0]].file
        raise UserError(f"{file}: config.json's network has no {_some(unknown)}")
    for name, shape in expected.items():
        _check_shape(tensors[name], shape)
    if HEAD in extra:
        _check_tied(tensors[EMBEDDING], tensors[HEAD])


def _check_shape(tensor: LazyTensor, expected: tuple[int, ...]) -> None:
    if tensor.shape != expected:
        raise UserError(
            f"{tensor.file}: {tensor.name} has shape {list(tensor.shape)}, "
            f"expected {list(expected)} by config.json"
        )


def _check_tied(embedding: LazyTensor, head: LazyTensor) -> None:
    _check_shape(head, embedding.shape)
    for start in range(0, embedding.shape[0], COMPARED_ROWS):
        rows = slice(start, start + COMPARED_ROWS)
        if not torch.equal(embedding[rows], head[rows]):
            raise UserError(
                f"{head.file}: {head.name} differs from {embedding.name}, "
                "but config.json has tie_word_embeddings=true; expected equal tensors, or false"
            )


def _some(names: list[str]) -> str:
    """The first few names, and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
