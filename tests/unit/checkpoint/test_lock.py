"""One run at a time in a folder, held by a process that lives."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from megatron_stare.checkpoint.lock import LOCK, Owner, RunLock, run_lock
from megatron_stare.errors import UserError
from tests.worlds import FORKSERVER

HOLD = """
import sys
from pathlib import Path
from megatron_stare.checkpoint.lock import RunLock
with RunLock(Path(sys.argv[1])) as lock:
    lock.take()
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_with_host_and_process_of_the_first(tmp_path, holder):
    said = f"process {holder.pid} on {re.escape(socket.gethostname())} runs in this folder"
    with pytest.raises(UserError, match=said), run_lock(tmp_path):
        pass
    assert holder.poll() is None
    assert (tmp_path / LOCK).read_text().split()[1] == str(holder.pid)


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, holder):
    holder.kill()
    holder.wait()
    with run_lock(tmp_path):
        assert (tmp_path / LOCK).read_text().split()[1] == str(os.getpid())


def test_it_is_released_at_the_end_even_of_a_failed_run(tmp_path):
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_another_host_stays(tmp_path):
    (tmp_path / LOCK).write_text("elsewhere 1\n")
    with pytest.raises(UserError, match="process 1 on elsewhere"), run_lock(tmp_path):
        pass
    assert (tmp_path / LOCK).exists()


def test_the_slurm_job_of_a_run_stands_in_its_lock_and_in_the_refusal(tmp_path):
    with run_lock(tmp_path / "ours", "78"):
        assert (tmp_path / "ours" / LOCK).read_text().split()[2] == "78"
    (tmp_path / LOCK).write_text("elsewhere 1 77\n")
    said = r"process 1 on elsewhere \(Slurm job 77\) runs in this folder"
    with pytest.raises(UserError, match=said), run_lock(tmp_path):
        pass


def test_a_lock_that_another_process_has_the_number_of_is_taken_over(tmp_path, holder):
    """After a restart small numbers come again; ticks since the boot tell processes apart."""
    words = (tmp_path / LOCK).read_text().split()
    for place, other in ((3, "1"), (4, "00000000-0000-0000-0000-000000000000")):
        changed = [*words[:place], other, *words[place + 1 :]]
        (tmp_path / LOCK).write_text(" ".join(changed))
        with run_lock(tmp_path):
            assert (tmp_path / LOCK).read_text().split()[1] == str(os.getpid())


def test_a_killed_process_that_nobody_has_waited_for_holds_nothing(tmp_path, holder):
    holder.kill()
    while Owner.of((tmp_path / LOCK).read_bytes()).may_be_alive():
        time.sleep(0.01)
    with run_lock(tmp_path):
        pass


HOST = socket.gethostname()


@pytest.mark.parametrize(
    "content",
    [
        *("", "\n", "\0" * 40, "host", "a torn wri", "\u0663 \u0663"),
        *(f"{HOST}", f"{HOST} x", f"{HOST} {10**20}", f"{HOST} {2**31}", f"{HOST} {2**63 - 1}"),
        *(f"{HOST} 0", f"{HOST} -1", f"{HOST} {os.getppid()}", f"{HOST} {os.getppid()} 78"),
    ],
)
def test_a_lock_that_names_nobody_is_taken_over(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with run_lock(tmp_path) as lock:
        lock.check_held()
    assert list(tmp_path.iterdir()) == []


def test_it_is_held_against_its_own_process_too(tmp_path):
    with run_lock(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()}"):
        RunLock(tmp_path).take()


def test_what_is_looked_at_is_not_touched(tmp_path, holder):
    before = (tmp_path / LOCK).stat()
    with pytest.raises(UserError, match="runs in this folder"):
        RunLock(tmp_path).check_free()
    RunLock(tmp_path / "no such folder").check_free()
    assert (tmp_path / LOCK).stat() == before
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_locks_that_were_never_put_in_place_are_removed(tmp_path):
    for name in (f"{LOCK}.{HOST}.123", f"{LOCK}.elsewhere.example.7", f"{LOCK}.txt", "block.a.1"):
        (tmp_path / name).write_text("left")
    with run_lock(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {LOCK, f"{LOCK}.txt", "block.a.1"}


@pytest.mark.parametrize("happens", ["removed", "another's", "folder gone"])
def test_a_folder_that_is_lost_is_noticed(tmp_path, happens):
    folder = tmp_path / "run"
    with run_lock(folder) as lock:
        lock.check_held()
        if happens == "another's":
            (folder / LOCK).write_text("elsewhere 7\n")
        else:
            (folder / LOCK).unlink()
        if happens == "folder gone":
            folder.rmdir()
        with pytest.raises(
            UserError, match=r"run: not this run's any more: its lock is (gone|that)"
        ):
            lock.check_held()
    assert (folder / LOCK).exists() == (happens == "another's"), "it is not ours to remove"


def test_a_lock_of_the_wrong_kind_is_one_message(tmp_path):
    (tmp_path / LOCK).mkdir()
    for attempt in (RunLock(tmp_path).check_free, RunLock(tmp_path).take):
        with pytest.raises(UserError, match=r"run\.dir=.*Is a directory"):
            attempt()


def _try_to_hold(folders: list[Path], barrier, results) -> None:
    for folder in folders:
        barrier.wait()
        held = None
        with suppress(UserError), run_lock(folder):
            entered = time.monotonic()
            time.sleep(0.1)
            held = entered, time.monotonic()
        results.put((folder.name, held))


def test_of_many_that_start_at_once_one_takes_a_stale_lock_over(tmp_path):
    """Everything is queued again after an outage: eight processes find the same dead owner."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folders = [tmp_path / str(attempt) for attempt in range(10)]
    for folder in folders:
        folder.mkdir()
        (folder / LOCK).write_text(f"{HOST} {dead.pid} - 1 {folder.name}\n")
    barrier, results = FORKSERVER.Barrier(8), FORKSERVER.Queue()
    arguments = (folders, barrier, results)
    starts = [FORKSERVER.Process(target=_try_to_hold, args=arguments) for _ in range(8)]
    for process in starts:
        process.start()
    found = [results.get(timeout=60) for _ in folders for _ in starts]
    for process in starts:
        process.join()
    for folder in folders:
        holders = sorted(held for name, held in found if name == folder.name and held is not None)
        assert holders, "one must have it"
        assert all(end <= begin for (_, end), (begin, _) in pairwise(holders))
        assert list(folder.iterdir()) == []
