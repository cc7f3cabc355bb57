"""Two models, Hugging Face folders or Megatron checkpoints, compared tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from megatron_stare.errors import UserError
from megatron_stare.model_shape import ModelShape
from megatron_stare.weights.hf_to_megatron import HfToMegatron
from megatron_stare.weights.megatron_to_hf import MegatronToHf
from megatron_stare.weights.rules import Entry
from megatron_stare.weights.torch_dist import FORMAT_FILE

COMPARED_ELEMENTS = 1 << 24
"""Compared at a time, in float32."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model on disk.

    shape        its network
    hf           the Hugging Face folder with its config.json
    entries      its parameters
    read         the Hugging Face tensors of one of them, by name
    is_megatron  whether it is a Megatron checkpoint
    """

    shape: ModelShape
    hf: Path
    entries: list[Entry]
    read: Callable[[Entry], dict[str, Tensor]]
    is_megatron: bool


def open_model(folder: Path, hf: Path | None = None) -> ModelFolder:
    """Open either kind of folder.

    Args:
        hf: the folder with the config.json of a Megatron checkpoint that has none.

    Raises:
        UserError: neither kind, or the weights are not those of the config.json.
    """
    if (folder / FORMAT_FILE).exists():
        megatron = MegatronToHf(folder, hf=hf)
        places = {parameter.entry.megatron: parameter.place for parameter in megatron.parameters}
        return ModelFolder(
            megatron.shape,
            megatron.hf,
            [parameter.entry for parameter in megatron.parameters],
            lambda entry: entry.merge([megatron.checkpoint.read(places[entry.megatron])]),
            is_megatron=True,
        )
    source = HfToMegatron(folder, dtype=torch.float32)
    return ModelFolder(
        source.shape,
        folder,
        [parameter.entry for parameter in source.parameters],
        lambda entry: {name: source.tensors[name][:] for name in entry.hf},
        is_megatron=False,
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a tensor of two models is apart."""

    name: str
    dtypes: tuple[torch.dtype, torch.dtype]
    is_identical: bool
    """The same dtype and bits."""
    largest: float
    """The largest absolute difference of two elements; NaN where only one of them is."""
    scale: float
    """The largest element of the first model's tensor, absolute."""

    @property
    def relative(self) -> float:
        """`largest` as a share of `scale`."""
        return self.largest / self.scale if self.scale else self.largest


def compare_tensors(a: ModelFolder, b: ModelFolder) -> Iterator[Difference]:
    """Every tensor of the two models, a parameter of each in memory at a time.

    Raises:
        UserError: they are not the same network.
    """
    shapes = [{name: s for e in m.entries for name, s in e.hf.items()} for m in (a, b)]
    for name in shapes[0] | shapes[1]:
        found = [shape.get(name, "missing") for shape in shapes]
        if found[0] != found[1]:
            raise UserError(f"{name}: {found[0]} in {a.hf}, {found[1]} in {b.hf}; different models")
    for entry in a.entries:
        left, right = a.read(entry), b.read(entry)
        for name in entry.hf:
            yield _difference(name, left[name], right[name])


def _difference(name: str, a: Tensor, b: Tensor) -> Difference:
    bits = a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)
    is_identical = a.dtype == b.dtype and torch.equal(*bits)
    largest = scale = torch.zeros(())
    parts = (tensor.flatten().split(COMPARED_ELEMENTS) for tensor in (a, b))
    for left, right in zip(*parts, strict=True):
        scale = torch.maximum(scale, left.float().abs().max())
        if not is_identical:
            largest = torch.maximum(largest, (left.float() - right.float()).abs().max())
    return Difference(name, (a.dtype, b.dtype), is_identical, largest.item(), scale.item())
