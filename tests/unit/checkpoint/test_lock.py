"""One run at a time in a folder."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys

import pytest

from megatron_stare.checkpoint.lock import LOCK, run_lock
from megatron_stare.errors import UserError

HOLD = """
import sys
from pathlib import Path
from megatron_stare.checkpoint.lock import run_lock
with run_lock(Path(sys.argv[1])):
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
