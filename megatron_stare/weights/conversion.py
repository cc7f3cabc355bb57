"""Between Hugging Face folders and Megatron-Core checkpoints, a parameter at a time.

    hf_to_megatron.py    safetensors, mapped --shard--> one parameter --> a file of chunks
    megatron_to_hf.py    chunks --> one parameter --merge--> its place in a safetensors file

A parameter is that of a single rank, which is how the format stores it whatever layout trains it.
Beside its chunks a checkpoint made here has a folder `hf` with config.json and tokenizer, from
which it can go back.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from megatron_stare.errors import UserError
from megatron_stare.model_shape import ModelShape
from megatron_stare.system.folders import flush, partial_of, put_in_place
from megatron_stare.system.output import check_folder, make_folder, writing
from megatron_stare.weights.megatron_keys import Place
from megatron_stare.weights.parts import JOURNAL_FILE, Budget, Journal, run_parts
from megatron_stare.weights.rules import Entry
from megatron_stare.weights.save import copy_files, write_config

HF_FOLDER = "hf"
"""Inside a Megatron checkpoint: config.json, tokenizer, chat template, generation config."""
PART_BYTES = 1 << 28
"""Parameters converted, flushed and noted together, unless one alone is larger."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter on its way."""

    entry: Entry
    place: Place
    source_dtype: torch.dtype
    dtype: torch.dtype
    """What it is written in."""

    @property
    def num_bytes(self) -> int:
        """Its size where it is larger, in the source or in the destination."""
        return self.place.num_elements * max(self.source_dtype.itemsize, self.dtype.itemsize)

    @property
    def names(self) -> str:
        """Its Hugging Face tensors."""
        return ", ".join(self.entry.hf)

    def __str__(self) -> str:
        index = "".join(f"[{number}]" for number in self.place.index)
        cast = f" from {dtype_name(self.source_dtype)}" if self.source_dtype != self.dtype else ""
        return (
            f"{self.place.key}{index}  {list(self.place.shape)} {dtype_name(self.dtype)}{cast}"
            f"  <->  {self.names}"
        )


class Conversion(Protocol):
    """What one direction brings."""

    source: Path
    parameters: list[Parameter]

    @property
    def source_files(self) -> list[Path]:
        """What is read."""
        ...

    def prepare(self, folder: Path) -> None:
        """Make the folder ready, or see that it is."""
        ...

    def convert(self, folder: Path, number: int, part: Sequence[Parameter], budget: Budget) -> Any:
        """Write the parameters of a part and have them reach the disk; the result is JSON."""
        ...

    def finish(self, folder: Path, parts: Sequence[Sequence[Parameter]], results: list) -> None:
        """Write what is not a tensor."""
        ...


def run_conversion(
    conversion: Conversion,
    destination: Path,
    *,
    force: bool = False,
    threads: int = 4,
    part_bytes: int = PART_BYTES,
    on_done: Callable[[int], None] = lambda parameters: None,
) -> int:
    """Build `destination`, which appears complete; return how many parameters were there already.

    A conversion that is stopped leaves `.NAME.partial` beside it and goes on from there when it is
    run again. Memory: twice the largest parameter and `part_bytes`.

    Args:
        force: replace what is there.
        on_done: called with the number of parameters converted since the last call.

    Raises:
        UserError: the destination exists or cannot be written, the disk is too small, another
            process is at it, or a file of the source turns out to be damaged.
    """
    with writing(destination, "DST"):
        if destination.exists() and not force:
            raise UserError(f"{destination}: exists; expected a path to create, or --force")
    partial = partial_of(destination.absolute())
    check_folder(partial, "DST")
    _check_apart(conversion.source, destination)
    parts = list(_parts(conversion.parameters, part_bytes))
    make_folder(partial, "DST")
    with (
        writing(partial, "DST"),
        closing(Journal(partial, _job(conversion, part_bytes))) as journal,
    ):
        if not journal.results:
            _empty(partial)
        already = [parameter for number in journal.results for parameter in parts[number]]
        _check_disk(partial, _total_bytes(conversion.parameters) - _total_bytes(already))
        on_done(len(already))
        conversion.prepare(partial)
        budget = Budget(2 * max(p.num_bytes for p in conversion.parameters) + part_bytes)
        run_parts(
            parts,
            lambda number, part: conversion.convert(partial, number, part, budget),
            journal,
            threads=threads,
            on_done=lambda part: on_done(len(part)),
        )
        results = [journal.results[number] for number in range(len(parts))]
        conversion.finish(partial, parts, results)
        (partial / JOURNAL_FILE).unlink()
        put_in_place(partial, destination)
    return len(already)


def _check_apart(source: Path, destination: Path) -> None:
    one, other = (Path(os.path.realpath(path)) for path in (source, destination))
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise UserError(f"{destination}: holds the source, or is in it; expected another path")


def _parts(parameters: Iterable[Parameter], part_bytes: int) -> Iterator[list[Parameter]]:
    part: list[Parameter] = []
    num_bytes = 0
    for parameter in parameters:
        num_bytes += parameter.num_bytes
        if part and num_bytes > part_bytes:
            yield part
            part, num_bytes = [], parameter.num_bytes
        part.append(parameter)
    yield part


def _job(conversion: Conversion, part_bytes: int) -> dict[str, Any]:
    """What must be the same for half a conversion to be of use."""
    stats = [(str(path), path.stat()) for path in conversion.source_files]
    return {
        "conversion": type(conversion).__name__,
        "source": [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats],
        "dtypes": sorted({dtype_name(parameter.dtype) for parameter in conversion.parameters}),
        "part_bytes": part_bytes,
    }


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != JOURNAL_FILE:
            path.unlink()


def _total_bytes(parameters: Iterable[Parameter]) -> int:
    return sum(p.place.num_elements * p.dtype.itemsize for p in parameters)


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{folder}: needs {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB")


def write_hf_files(
    source: Path, folder: Path, shape: ModelShape, dtype: torch.dtype | None
) -> None:
    """Config and tokenizer of weights stored in `dtype`; None leaves the config as it is."""
    folder.mkdir(exist_ok=True)
    copy_files(source, folder)
    said = shape.raw.get("dtype", shape.raw.get("torch_dtype"))
    if dtype is None or said == dtype_name(dtype):
        shutil.copyfile(source / "config.json", folder / "config.json")
    else:
        write_config(shape, folder, dtype)
    for path in (folder, *folder.rglob("*")):
        flush(path)


def dtype_name(dtype: torch.dtype) -> str:
    """As config.json says it."""
    return str(dtype).removeprefix("torch.")
