"""Folders that exist complete or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(destination: Path) -> Iterator[Path]:
    """A new folder that takes the place of `destination` if the block succeeds."""
    partial = partial_of(destination)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in partial.rglob("*"):
            flush(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    put_in_place(partial, destination)


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
    shutil.rmtree(previous, ignore_errors=True)
    if destination.exists():
        destination.rename(previous)
    partial.rename(destination)
    flush(destination.parent)
    shutil.rmtree(previous, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file's content or a folder's entries are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
