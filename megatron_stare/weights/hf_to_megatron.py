"""A Hugging Face folder becomes a Megatron-Core checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from megatron_stare.errors import UserError
from megatron_stare.weights.conversion import HF_FOLDER, Parameter, dtype_name, write_hf_files
from megatron_stare.weights.finite import cast
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.load import open_hf_weights
from megatron_stare.weights.megatron_keys import place_of
from megatron_stare.weights.names import model_entries
from megatron_stare.weights.parts import Budget
from megatron_stare.weights.rules import Entry
from megatron_stare.weights.torch_dist import StoredChunk, file_name, write_chunks, write_index


class HfToMegatron:
    """From a Hugging Face folder.

    Args:
        dtype: what to store everything in; None keeps what the folder has.

    Raises:
        UserError: the folder's tensors are not those of its config.json, or have several dtypes
            where Megatron keeps one tensor.
    """

    def __init__(self, source: Path, *, dtype: torch.dtype | None = None) -> None:
        self.source, self.dtype = Path(source), dtype
        self.shape = read_hf_config(self.source)
        self.tensors = open_hf_weights(self.source, self.shape)
        entries = model_entries(self.shape)
        self.parameters = [
            Parameter(entry, place_of(entry), found, dtype or found)
            for entry in entries.values()
            if not entry.is_copy
            for found in [self._dtype_of(entry)]
        ]
        if dtype is None:
            _check_one_dtype(self.parameters, self.source)

    @property
    def source_files(self) -> list[Path]:
        """Weights and config."""
        return [self.source / "config.json", *sorted({t.file for t in self.tensors.values()})]

    def prepare(self, folder: Path) -> None:
        """Nothing to do: every part is a file of its own."""

    def convert(
        self, folder: Path, number: int, part: Sequence[Parameter], budget: Budget
    ) -> list[tuple[int, int]]:
        """One file of chunks; the result is where each stands in it."""
        return write_chunks(folder / file_name(number), self._chunks(part, budget))

    def finish(self, folder: Path, parts: Sequence[Sequence[Parameter]], results: list) -> None:
        """Index, config and tokenizer."""
        chunks = [
            StoredChunk(parameter.place, parameter.dtype, file_name(number), tuple(extent))
            for number, (part, extents) in enumerate(zip(parts, results, strict=True))
            for parameter, extent in zip(part, extents, strict=True)
        ]
        write_index(folder, chunks, objects_file=file_name(len(parts)))
        write_hf_files(self.source, folder / HF_FOLDER, self.shape, self.dtype)

    def _chunks(self, part: Sequence[Parameter], budget: Budget) -> Iterator[Tensor]:
        for parameter in part:
            with budget.hold(2 * parameter.num_bytes):
                tensor = parameter.entry.shard(self.tensors, 0, 1)
                tensor = cast(tensor, parameter.dtype, f"{self.source}: {parameter.names}")
                yield tensor.reshape(parameter.place.sizes)
                del tensor

    def _dtype_of(self, entry: Entry) -> torch.dtype:
        dtypes = {name: self.tensors[name].dtype for name in entry.hf}
        if len(set(dtypes.values())) > 1:
            found = ", ".join(f"{name} {dtype_name(dtype)}" for name, dtype in dtypes.items())
            raise UserError(
                f"{self.source}: {found}; expected one dtype, Megatron keeps them in one tensor"
            )
        return next(iter(dtypes.values()))


def _check_one_dtype(parameters: Iterable[Parameter], folder: Path) -> None:
    """Layers are stacked in one tensor."""
    dtypes: dict[str, torch.dtype] = {}
    for parameter in parameters:
        expected = dtypes.setdefault(parameter.place.key, parameter.dtype)
        if parameter.dtype != expected:
            raise UserError(
                f"{folder}: {next(iter(parameter.entry.hf))} is {dtype_name(parameter.dtype)}, "
                f"expected {dtype_name(expected)} as in other layers; --dtype stores all in one"
            )
