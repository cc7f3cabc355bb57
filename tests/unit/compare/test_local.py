"""Processes of a comparison: so many at a time, each with its end, and an end for all."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from megatron_stare.compare.local import Job, run_jobs
from megatron_stare.system.signals import StopRequest

HEARS = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); {}; time.sleep(60)"


@pytest.fixture
def job(tmp_path):
    """A job of some lines of Python; `FOLDER` in them is the test's."""

    def make(title: str, code: str) -> Job:
        code = code.replace("FOLDER", repr(f"{tmp_path}/"))
        return Job(title, [sys.executable, "-S", "-c", code], tmp_path / f"{title}.log")

    return make


def run(jobs, num_places=1, stop=None):
    lines: list[str] = []
    return run_jobs(jobs, [{}] * num_places, stop or StopRequest(), lines.append), lines


def test_one_that_fails_is_named_with_what_it_said_and_the_others_are_run(job):
    refuse = "print('megatron-stare: error: no room'); print('bye'); raise SystemExit(2)"
    jobs = [
        job("refused", refuse),
        job("raises", "raise ValueError('a bug')"),
        job("killed", "import os; os.kill(os.getpid(), 9)"),
        job("fine", "print('done')"),
    ]
    problems, lines = run(jobs)
    assert problems == {
        "refused": "exit code 2: no room",
        "raises": "exit code 1: ValueError: a bug",
        "killed": "ended by SIGKILL: it said nothing",
    }
    assert [line.split(",")[0] for line in lines[-2:]] == ["fine: begins", "fine: done"]


def test_what_an_earlier_attempt_said_is_no_reason_of_this_one(job, tmp_path):
    (tmp_path / "again.log").write_text("megatron-stare: error: long mended\n")
    assert run([job("again", "raise SystemExit(3)")])[0] == {
        "again": "exit code 3: it said nothing"
    }


def test_no_more_run_at_a_time_than_there_are_places(job):
    code = (
        "import pathlib, time; p = pathlib.Path(FOLDER + '{0}.running'); p.touch(); time.sleep(0.2)"
        "; print(len(list(p.parent.glob('*.running')))); p.unlink()"
    )
    jobs = [job(f"job{i}", code.format(f"job{i}")) for i in range(5)]
    assert run(jobs, num_places=2)[0] == {}
    assert max(int(one.log.read_text()) for one in jobs) <= 2


def test_a_place_is_told_to_its_run_and_threads_are_one_unless_said_otherwise(job, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    one = job("one", "import os; print(os.environ['GPU'], os.environ['OMP_NUM_THREADS'])")
    run_jobs([one], [{"GPU": "3"}], StopRequest(), lambda _: None)
    assert one.log.read_text() == "3 1\n"
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    run_jobs([one], [{"GPU": "3"}], StopRequest(), lambda _: None)
    assert one.log.read_text() == "3 4\n"


def test_asked_to_stop_it_begins_no_more_and_those_that_run_save(job, tmp_path):
    stop = StopRequest()
    jobs = [job("first", HEARS.format("open(FOLDER + 'ready', 'w')")), job("second", "")]
    _when(tmp_path / "ready", stop.set)
    problems, lines = run(jobs, stop=stop)
    assert problems == {"first": "stopped, and saved"}
    assert not any(line.startswith("second") for line in lines)


def test_what_ends_the_comparison_leaves_no_process(job, tmp_path):
    one = job("one", HEARS.format("import os; print(os.getpid(), flush=True)"))

    def interrupt(_: str) -> None:
        while not one.log.read_text():
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs([one], [{}], StopRequest(), interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(one.log.read_text()), 0)


def _when(path, act) -> None:
    def wait() -> None:
        while not path.exists():
            time.sleep(0.01)
        act()

    threading.Thread(target=wait).start()
