"""Files and folders that exist complete or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from megatron_stare.system.reading import check_kind

UNFINISHED = ".unfinished"
"""At the end of the name of what is not whole yet, or no longer."""


@contextmanager
def replacing(destination: Path) -> Iterator[Path]:
    """A new folder that takes the place of `destination` if the block succeeds."""
    partial = partial_of(destination)
    remove(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in partial.rglob("*"):
            flush(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    put_in_place(partial, destination)


@contextmanager
def replacing_file(path: Path, *, durably: bool = False) -> Iterator[Path]:
    """A path to write, which takes the place of `path` if the block succeeds; else it is removed.

    A link stays one, to what is new.

    Args:
        durably: it is on the disk first, and its name afterwards; else the system sees to that.

    Raises:
        OSError: it cannot be written, or is a pipe or a device. It names `path`.
    """
    place = path.resolve() if path.is_symlink() else path
    unfinished = place.with_name(place.name + UNFINISHED)
    try:
        check_kind(place)
        yield unfinished
        if durably:
            flush(unfinished)
        unfinished.replace(place)
    except BaseException as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        # What fails while it is written names nothing.
        if isinstance(error, OSError) and error.filename in (None, str(unfinished)):
            error.filename = str(path)
        raise
    if durably:
        flush(place.parent)


def write_whole(path: Path, content: str) -> None:
    """A text in a file: all of it, or what was there before."""
    with replacing_file(path) as unfinished:
        unfinished.write_text(content, encoding="utf-8")


def partial_of(destination: Path) -> Path:
    """Where a folder is built: beside its place, hidden."""
    return destination.with_name(f".{destination.name}.partial")


def put_in_place(partial: Path, destination: Path) -> None:
    """Rename a folder whose files are on disk.

    One that it replaces is moved aside just before and deleted just after, so a complete one exists
    at every moment.
    """
    flush(partial)
    previous = destination.with_name(f".{destination.name}.previous")
    remove(previous)
    if destination.exists() or destination.is_symlink():
        destination.rename(previous)
    partial.rename(destination)
    flush(destination.parent)
    with suppress(OSError):
        remove(previous)


def remove(path: Path) -> None:
    """Delete whatever is at a path: a folder with all in it, a file, a link, nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file's content or a folder's entries are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
