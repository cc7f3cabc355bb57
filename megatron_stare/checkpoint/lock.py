"""One run at a time in a folder: a lock file with the host and the process that holds it.

In a Slurm job its number stands there as well: the script of `megatron-stare slurm` removes the
lock of a job that, Slurm says, is over.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_stare.errors import UserError

LOCK = "lock"


@contextmanager
def run_lock(folder: Path, job: str | None = None) -> Iterator[None]:
    """Hold a run's folder, which is made if need be; the lock of a dead process is taken over.

    `job` is the number of the Slurm job that this process runs in, if it does.

    Whether a process of another host is alive cannot be known here: its lock stays.

    Raises:
        UserError: another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    own = f"{socket.gethostname()} {os.getpid()} {job or ''}".rstrip() + "\n"
    while not _create(path, own):
        _remove_if_stale(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _create(path: Path, content: str) -> bool:
    """Whether the lock is ours: linked whole into place, so that nobody reads half of it."""
    whole = path.with_name(f"{LOCK}.{content.split()[0]}.{os.getpid()}")
    whole.write_text(content)
    try:
        os.link(whole, path)
    except FileExistsError:
        return False
    finally:
        whole.unlink()
    return True


def _remove_if_stale(path: Path) -> None:
    try:
        host, pid, *job = path.read_text().split()
    except FileNotFoundError:
        return  # Just released.
    except ValueError:
        host, pid, *job = "an unknown host", "?"
    if host != socket.gethostname() or (pid.isdigit() and _is_alive(int(pid))):
        in_job = f" (Slurm job {job[0]})" if job else ""
        raise UserError(
            f"{path}: process {pid} on {host}{in_job} runs in this folder; expected another "
            "run.dir, or that it is over (then remove the file)"
        )
    path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # Left by a process of the same number.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
