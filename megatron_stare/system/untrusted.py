"""Reading what others have pickled as data: of what a file names, only what is admitted is called.

A checkpoint may come from anywhere, and a pickle can name any function and have it called. So the
index of a torch_dist checkpoint becomes inert records of the few classes that it consists of, from
which the true ones are built; and what `torch.save` wrote is loaded with `weights_only`.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import IO, Any

import torch

from megatron_stare.errors import UserError

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


class Record:
    """An object of a pickle, as it says: what it was called with, and its state."""

    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __new__(cls, *_: Any) -> Record:
        """An empty one: a pickle may call this instead of the class."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class RecordUnpickler(pickle.Unpickler):
    """Unpickles objects of the admitted classes as records, and refuses any other name.

    Raises:
        UserError: from `load`, with the file and the name.

    Args:
        admitted: module and name of each class; `classes` holds the record's class of each.
    """

    def __init__(self, file: IO[bytes], path: Path, admitted: frozenset[tuple[str, str]]) -> None:
        super().__init__(file)
        self._path = path
        # Classes of this file's alone: a pickle can set attributes of what it may name.
        self._classes = {key: type(".".join(key), (Record,), {}) for key in admitted}

    def find_class(self, module: str, name: str, /) -> type[Record]:
        """The record's class of an admitted name."""
        if (module, name) not in self._classes:
            raise refusal(self._path, f"{module}.{name}")
        return self._classes[module, name]


def refusal(path: Path | str, name: str) -> UserError:
    """The error where a file names what it has no need of."""
    return UserError(
        f"{path}: refused, for it names {name}, which is not needed to read it: a file that names "
        "functions or classes can have them run; expected one that holds data alone"
    )


def load_data(file: IO[bytes] | Path, place: Path | str, **options: Any) -> Any:
    """What `torch.save` wrote, of tensors and plain values only.

    Args:
        place: of the data, for messages.
        options: of `torch.load`.

    Raises:
        UserError: it names anything else, or is damaged.
    """
    try:
        return torch.load(file, weights_only=True, **options)
    except Exception as error:  # Whatever a malformed file makes torch raise.
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
        if found := _GLOBAL.search(reason):
            name = found[1] if "." in found[1] else f"builtins.{found[1]}"
            raise refusal(place, name) from None
        raise UserError(f"{place}: cannot be read ({reason.partition('\n')[0]})") from None
