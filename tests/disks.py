"""Disks that fail: a small file system where mounting is allowed, a limit on files everywhere."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own in a folder, which is made: `size=300k`, `nr_inodes=7`.

    Skips the test where this process may not mount one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"may not mount a file system: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def make_read_only(folder: Path) -> None:
    """The file system that `small_disk` has mounted there, as soon as no file is being written."""
    remount = ["mount", "-o", "remount,ro", str(folder)]
    while subprocess.run(remount, capture_output=True, check=False).returncode:
        time.sleep(0.001)


@contextmanager
def full_disk(num_bytes: int = 1) -> Iterator[None]:
    """Files of more bytes cannot be written by this process."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, unlimited[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
