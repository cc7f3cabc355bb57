"""Runs on this machine: one process each, so many at a time, and an end for all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from megatron_stare.errors import printable
from megatron_stare.launch.environment import environment_with
from megatron_stare.system.signals import STOPPED, StopRequest

_POLL_S = 0.05
_TAIL_BYTES = 1 << 16
_ONE_CORE = {"OMP_NUM_THREADS": "1"}
_ERROR = "megatron-stare: error: "


@dataclass(frozen=True, slots=True)
class Job:
    """A run as a process; what its last attempt printed is in the file `log`."""

    title: str
    command: Sequence[str]
    log: Path


@dataclass(slots=True)
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    place: Mapping[str, str]
    started: float
    is_told: bool = False


def run_jobs(
    jobs: Sequence[Job],
    places: Sequence[Mapping[str, str]],
    stop: StopRequest,
    report: Callable[[str], None],
) -> dict[str, str]:
    """Run all of them, as many at a time as there are places; why some are not done, by title.

    Where it is asked to stop, it starts no more, and has those that run save and end.

    Args:
        places: variables of the environment for the runs of each place, such as its GPU.
    """
    waiting, free, problems = list(jobs), list(places), {}
    with _processes() as running:
        while running or (waiting and not stop.is_set):
            while waiting and free and not stop.is_set:
                running.append(_start(waiting.pop(0), free.pop(0)))
                report(f"{running[-1].job.title}: begins, {len(waiting)} wait")
            if stop.is_set:
                _tell(running)
            time.sleep(_POLL_S)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                free.append(one.place)
                problem = _problem(one)
                if problem is not None:
                    problems[one.job.title] = problem
                seconds = time.monotonic() - one.started
                report(f"{one.job.title}: {problem or 'done'}, after {seconds:,.0f} s")
    return problems


@contextmanager
def _processes() -> Iterator[list[_Running]]:
    """Those that run; whatever ends the block, such as Ctrl-C, they are told, and waited for."""
    running: list[_Running] = []
    try:
        yield running
    finally:
        _tell(running)
        for one in running:
            one.process.wait()


def _start(job: Job, place: Mapping[str, str]) -> _Running:
    with job.log.open("wb") as log:
        process = subprocess.Popen(
            job.command,
            env=environment_with({"PYTHONUNBUFFERED": "1", **place}, unless_set=_ONE_CORE),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C comes to us alone, and we have it save.
        )
    return _Running(job, process, place, time.monotonic())


def _tell(running: Sequence[_Running]) -> None:
    """Have them save and end; a second signal would end them at once."""
    for one in running:
        if not one.is_told:
            one.process.terminate()
            one.is_told = True


def _problem(one: _Running) -> str | None:
    """Why a process that is over has not done its run; None where it has."""
    code = one.process.returncode
    if code == 0:
        return None
    if code == STOPPED:
        return "stopped, and saved"
    if one.is_told and code == -signal.SIGTERM:  # It was not yet there to hear it.
        return "stopped"
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{how}: {last_line(one.job.log)}"


def last_line(log: Path) -> str:
    """What a process said last, on one line: of its errors, if it ended with one of ours."""
    with log.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    return printable([*lines, *errors][-1]) if lines else "it said nothing"
