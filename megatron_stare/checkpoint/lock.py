"""One run at a time in a folder: a lock file that says which process holds it.

    HOST PID JOB START BOOT

    JOB    Slurm's number of the job that it runs in, or -
    START  when the process began, in the kernel's ticks since the boot BOOT: a number that was
           given to another process since, or a boot since, makes nobody an owner

Its content is placed whole: by a hard link where there is no lock, which one of many processes and
hosts succeeds at, or by a rename over that of a process that is over, which one process at a time
does: the one that holds the kernel's lock (flock) of the file that goes. Only a process of the same
host can know that an owner is over. The script of `megatron-stare slurm` removes the lock of a job
that, Slurm says, is over.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from megatron_stare.errors import UserError
from megatron_stare.system.output import make_folder, writing
from megatron_stare.system.reading import read_whole

LOCK = "lock"
_CLAIM = re.compile(rf"{LOCK}\..+\.\d+")
"""A lock on its way into place; killed there, a process leaves it behind."""
_PATIENCE_S = 10.0
_POLL_S = 0.01
_MAX_BYTES = 1 << 12
_NONE = "-"


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lock, as its words say."""

    host: str
    pid: int
    job: str
    start: str
    boot: str

    @classmethod
    def this_process(cls, job: str | None) -> Owner:
        """The owner that this process is."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, job or _NONE, _start_of(pid) or _NONE, _boot())

    @classmethod
    def of(cls, content: bytes) -> Owner | None:
        """Whom a lock names; None where it names nobody: empty, or torn by a loss of power."""
        words = content.decode(errors="replace").split()
        if len(words) < 2 or not re.fullmatch("[1-9][0-9]{0,18}", words[1]):
            return None
        host, pid, job, start, boot = (*words, *[_NONE] * 3)[:5]
        return cls(host, int(pid), job, start, boot)

    def __str__(self) -> str:
        """As it stands in the lock."""
        return f"{self.host} {self.pid} {self.job} {self.start} {self.boot}\n"

    def may_be_alive(self) -> bool:
        """Whether it runs, as far as this host can know."""
        if self.host != socket.gethostname():
            return True
        if self.boot != _boot():
            return False
        unknown = _NONE
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:  # Of another user, whose processes may be hidden from us.
            unknown = self.start
        return self.start == (_start_of(self.pid) or unknown)


class RunLock:
    """The lock of a run's folder; a context manager that lets go of it, if it was taken.

    lock = RunLock(folder)
    lock.check_free()         touches nothing
    lock.take()               from here on the folder is ours
    lock.check_held()         now and then: it still is
    """

    def __init__(self, folder: Path, job: str | None = None) -> None:
        self._folder = folder
        self._path = folder / LOCK
        self._job = job
        self._ours = b""

    def check_free(self) -> None:
        """UserError where another run holds the folder."""
        with writing(self._folder, "run.dir"), suppress(FileNotFoundError, NotADirectoryError):
            self._refuse(read_whole(self._path))

    def take(self) -> None:
        """Hold the folder, which is there; UserError where another run does."""
        owner = Owner.this_process(self._job)
        claim = self._path.with_name(f"{LOCK}.{owner.host}.{owner.pid}")
        deadline = time.monotonic() + _PATIENCE_S
        with writing(self._folder, "run.dir"):
            try:
                while not self._try_to_take(claim, str(owner).encode()):
                    if time.monotonic() > deadline:
                        raise UserError(f"{self._path}: could not be taken within {_PATIENCE_S} s")
                    time.sleep(_POLL_S)
            finally:
                claim.unlink(missing_ok=True)
            self._ours = str(owner).encode()
            # Who is in the middle of it writes another.
            for leaving in self._folder.glob(f"{LOCK}.*"):
                if _CLAIM.fullmatch(leaving.name):
                    leaving.unlink(missing_ok=True)

    def check_held(self) -> None:
        """UserError where the folder, or the lock in it, is not ours any more."""
        try:
            found = read_whole(self._path)
        except (FileNotFoundError, NotADirectoryError):
            found = b""
        except OSError:
            return  # A file system that does not answer now may do so later.
        if self._ours and found != self._ours:
            owner = Owner.of(found)
            raise UserError(
                f"{self._folder}: not this run's any more: its lock is "
                f"{'gone' if owner is None else f'that of process {owner.pid} on {owner.host}'}; "
                "expected a folder that stays until the run is over"
            )

    def release(self) -> None:
        """Let go of the folder, if it is ours."""
        with suppress(OSError):
            if self._ours and self._path.read_bytes() == self._ours:
                self._path.unlink()
        self._ours = b""

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _try_to_take(self, claim: Path, content: bytes) -> bool:
        claim.write_bytes(content)
        try:
            os.link(claim, self._path)
        except FileExistsError:
            return self._try_to_take_over(claim)
        except FileNotFoundError:
            return False  # Whoever has just taken it removed our claim.
        return True

    def _try_to_take_over(self, claim: Path) -> bool:
        try:
            file = os.open(self._path, os.O_RDWR | os.O_NONBLOCK)  # A pipe has nothing to say.
        except FileNotFoundError:
            return False  # Just released.
        try:
            self._refuse(os.read(file, _MAX_BYTES))
            self._lock(file)
            # What we have read may have been replaced before we had the kernel's lock of it.
            if not os.path.samestat(os.fstat(file), self._path.stat()):
                return False
            claim.replace(self._path)
        except (BlockingIOError, FileNotFoundError):
            return False
        finally:
            os.close(file)
        return True

    def _lock(self, file: int) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:
            raise UserError(
                f"{self._path}: left by a process that is over, and this file system has no locks "
                f"to take it over by ({error.strerror}); remove the file"
            ) from None

    def _refuse(self, content: bytes) -> None:
        """UserError where the owner that stands there may be alive."""
        owner = Owner.of(content)
        if owner is not None and owner.may_be_alive():
            in_job = f" (Slurm job {owner.job})" if owner.job != _NONE else ""
            raise UserError(
                f"{self._path}: process {owner.pid} on {owner.host}{in_job} runs in this folder; "
                "expected another run.dir, or that it is over (then remove the file)"
            )


@contextmanager
def run_lock(folder: Path, job: str | None = None) -> Iterator[RunLock]:
    """Hold a run's folder, which is made if need be; for programs that write there beside a run.

        with run_lock(Path("runs/mine")):
            ...

    Args:
        folder: of the run.
        job: number of the Slurm job that this process runs in, if it does.

    Raises:
        UserError: another run holds it, or it cannot be made.
    """
    make_folder(folder, "run.dir")
    with RunLock(folder, job) as lock:
        lock.take()
        yield lock


def _start_of(pid: int) -> str | None:
    """When a process began; None where there is none, or it is over and waits for its parent."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    state, *rest = stat[stat.rindex(b")") + 1 :].split()
    return None if state in (b"Z", b"X") else rest[18].decode()


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return _NONE
