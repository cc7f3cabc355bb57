"""Folders that commands write into: what stands in the way is one `UserError`, never a traceback.

check_folder(config.run.dir, "run.dir")    before the work: touches nothing
make_folder(config.run.dir, "run.dir")     afterwards
with writing(path, "run.dir"): ...         whatever the system then refuses is said of `path`
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_stare.errors import UserError

_SHOWN_CHARACTERS = 300


def check_folder(folder: Path, key: str) -> None:
    """See that a folder is there, or can be made, without touching anything.

    What only shows when it is made (a folder below /proc, a quota) is left to `make_folder`.

    Args:
        key: what the user calls it: a key of the config, or an option.

    Raises:
        UserError: it is no folder, cannot be written, or cannot be where it is to be.
    """
    with writing(folder, key):
        try:
            str(folder).encode()  # Or no console, log or config could name it.
            there = next(path for path in (folder, *folder.parents) if _is_there(path))
        except ValueError as error:  # A NUL byte, half a surrogate pair.
            raise UserError(_message(folder, key, str(error))) from None
        if not there.is_dir():
            kind = "a link to nothing" if there.is_symlink() and not there.exists() else "no folder"
            raise UserError(_message(folder, key, f"{_short(there)} is {kind}"))
        if not os.access(there, os.W_OK | os.X_OK):
            raise UserError(_message(folder, key, f"{_short(there)} cannot be written"))


def make_folder(folder: Path, key: str) -> list[Path]:
    """Make a folder where it is not there; those that were made, the innermost first.

    Raises:
        UserError: it cannot be made.
    """
    check_folder(folder, key)
    missing = [path for path in (folder, *folder.parents) if not _is_there(path)]
    with writing(folder, key):
        folder.mkdir(parents=True, exist_ok=True)
    return missing


@contextmanager
def writing(path: Path, key: str) -> Iterator[None]:
    """What the system refuses in the block is a `UserError` that names `key` and `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(_message(path, key, _reason(error, path))) from None


def _is_there(path: Path) -> bool:
    """A link counts, whatever it leads to."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _reason(error: OSError, path: Path) -> str:
    """What the system says, and of which file, where that is one in `path`, or beside it."""
    reason = error.strerror or str(error)
    if isinstance(error.filename, str) and (file := Path(error.filename)) != path:
        for folder in (path, path.parent):
            if file.is_relative_to(folder):
                return f"{_short(file.relative_to(folder))}: {reason}"
    return reason


def _message(path: Path, key: str, reason: str) -> str:
    return (
        f"{key}={_short(path)}: cannot be written ({reason}); expected a folder, or a path where "
        "one can be made"
    )


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
