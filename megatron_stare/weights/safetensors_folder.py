"""The tensors of a Hugging Face folder, opened but not read: slicing one reads that part only."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megatron_stare.errors import UserError
from megatron_stare.system.json_file import read_object
from megatron_stare.weights.finite import check_finite

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_MAX_NAME = 255
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""The dtypes that weights may be stored in, by their code in safetensors."""


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor in a file; `tensor[a:b]` reads rows a to b."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    content: Any
    """The safetensors slice, which keeps its file mapped."""

    def __getitem__(self, index: Any, /) -> Tensor:
        """Read the part that slices select.

        Raises:
            UserError: a value of it is not finite.
        """
        return check_finite(self.content[index], f"{self.file}: {self.name}")


def open_tensors(folder: Path) -> dict[str, LazyTensor]:
    """Open `model.safetensors`, or the shards that `model.safetensors.index.json` lists.

    Only headers are read.

    Raises:
        UserError: no safetensors in the folder, a malformed index, a missing or damaged file, an
            index that disagrees with its files, or a dtype that is not floating point.
    """
    folder = Path(folder)
    if (folder / SINGLE_FILE).exists():
        return _open_file(folder / SINGLE_FILE)
    if not (folder / INDEX_FILE).exists():
        raise UserError(f"{folder}: no weights; expected {SINGLE_FILE} or {INDEX_FILE}")
    tensors: dict[str, LazyTensor] = {}
    for file, listed in _read_index(folder / INDEX_FILE).items():
        if not Path(file).name == file == file[:_MAX_NAME]:
            raise UserError(f"{folder / INDEX_FILE}: {file!r:.80} is no name of a file beside it")
        if not (folder / file).exists():
            raise UserError(f"{folder / file}: no such file, but {INDEX_FILE} lists it")
        found = _open_file(folder / file)
        if difference := sorted(listed ^ found.keys()):
            where = "the index" if difference[0] in listed else "the file"
            raise UserError(
                f"{folder / file}: {INDEX_FILE} disagrees: only {where} has {difference[0]}"
            )
        tensors |= found
    return tensors


def _read_index(path: Path) -> dict[str, set[str]]:
    """Tensor names by file."""
    expected = "a weight_map of tensor names to files"
    weight_map = read_object(path, expected).get("weight_map")
    if not isinstance(weight_map, dict):
        raise UserError(f"{path}: malformed; expected {expected}")
    names: dict[str, set[str]] = defaultdict(set)
    for name, file in weight_map.items():
        names[str(file)].add(name)
    return names


def _open_file(path: Path) -> dict[str, LazyTensor]:
    if not path.is_file():  # Of a pipe, opening would never end.
        raise UserError(f"{path}: is no file, expected weights")
    try:
        handle = safe_open(path, framework="pt")
        names = handle.keys()
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error})") from None
    return {name: _lazy(name, path, handle.get_slice(name)) for name in names}


def _lazy(name: str, path: Path, content: Any) -> LazyTensor:
    if content.get_dtype() not in DTYPES:
        raise UserError(
            f"{path}: {name} has dtype {content.get_dtype()}; expected one of {', '.join(DTYPES)}"
        )
    dtype = DTYPES[content.get_dtype()]
    return LazyTensor(name, path, tuple(content.get_shape()), dtype, content)
