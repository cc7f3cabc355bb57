"""Code runs as a program would, up to its limits, and nothing of a run is left for the next."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from megatron_stare.tools.sandbox.confine import Limits
from megatron_stare.tools.sandbox.pool import Sandbox, SandboxFailure
from tests.children import children_of, descendants

LIMITS = Limits(cpu_s=1, memory_bytes=256 << 20, file_bytes=4 << 20, output_bytes=1000)


@pytest.fixture(scope="module")
def sandbox(any_walls):
    with Sandbox(any_walls, ("numpy", "sympy"), LIMITS, workers=2, wait_s=30) as sandbox:
        yield sandbox


def test_what_is_printed_comes_back(sandbox):
    run = sandbox.run("import sys; print('out'); print('err', file=sys.stderr); print('ü')", 10)

    assert (run.output, run.ending) == ("out\nerr\nü\n", "done")


def test_packages_can_be_imported_and_no_others(walls):
    code = """
import numpy as np
from sympy import symbols, solve
print(np.linalg.det(np.eye(3)), solve(symbols("x") ** 2 - 4))
"""
    with Sandbox(walls, ("numpy", "sympy"), LIMITS, workers=1, wait_s=1) as sandbox:
        assert sandbox.run(code, 10).output == "1.0 [-2, 2]\n"
        missing = sandbox.run("import pydantic", 10).output

    assert missing.endswith("ModuleNotFoundError: No module named 'pydantic'\n")


def test_a_traceback_shows_the_code_and_nothing_of_ours(sandbox):
    run = sandbox.run("def half(x):\n    return 1 / x\n\nhalf(0)\n", 10)

    assert run.output == (
        "Traceback (most recent call last):\n"
        '  File "main.py", line 4, in <module>\n'
        "    half(0)\n"
        '  File "main.py", line 2, in half\n'
        "    return 1 / x\n"
        "           ~~^~~\n"
        "ZeroDivisionError: division by zero\n"
    )


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        ("print(1", "raised"),
        ("raise SystemExit(3)", "raised"),
        ("exit()", "done"),
        ("import sys; sys.exit('why')", "raised"),
        ("input()", "raised"),
        ("import os; os._exit(0)", "done"),
        ("import os; os._exit(97)", "raised"),
        ("import os; os.abort()", "died"),
        ("import os; os.kill(os.getpid(), 9)", "raised"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "died"),
        ("import signal; signal.raise_signal(signal.SIGKILL)", "raised"),
        ("import ctypes; ctypes.string_at(0)", "died"),
        ("def f(): f()\nf()", "raised"),
        ("print(chr(0xD800))", "done"),
        ("x = '\ud800'", "raised"),
        ("\0", "raised"),
        ("import sys; sys.stdout.close(); sys.stderr = None; 1 / 0", "raised"),
        (
            "import sys; sys.excepthook = sys.displayhook = print; del sys.stdout; print(1)",
            "raised",
        ),
        ("while True: print('x' * 100)", "output"),
        ("import os\nwhile True: os.write(2, b'x' * 100)", "output"),
        ("while True: pass", "cpu"),
        pytest.param(
            "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: None)\nwhile True: pass",
            "cpu",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "while True:\n    try:\n        10 ** 10 ** 8\n    except BaseException: pass",
            "cpu",
            marks=pytest.mark.slow,
        ),
        ("x = [0]\nwhile True: x = x * 2", "raised"),
    ],
)
def test_a_run_ends_in_one_of_few_ways(sandbox, code, ending):
    run = sandbox.run(code, 60)

    assert run.ending == ending, run
    assert len(run.output) <= LIMITS.output_bytes


def test_a_run_that_waits_ends_at_its_deadline_with_what_it_printed(sandbox):
    run = sandbox.run("import time; print('begun'); time.sleep(60)", 1)

    assert (run.output, run.ending) == ("begun\n", "time")


def test_a_run_that_closes_its_output_is_waited_for(sandbox):
    run = sandbox.run("import os, time; print(1); os.closerange(0, 3); time.sleep(60)", 1)

    assert (run.output, run.ending) == ("1\n", "time")


def test_the_same_code_draws_the_same_numbers(sandbox):
    code = """
import random, numpy.random, sympy
print(random.random(), numpy.random.rand(), sympy.core.random.random(), list({"a", "b", "c"}))
"""
    first, *others = {sandbox.run(code, 10).output for _ in range(3)}
    assert "0." in first
    assert others == []


def test_a_run_finds_nothing_of_another(sandbox):
    spoil = """
import builtins, os, sys
builtins.print = None
sys.modules["math"].pi = 3
open("left", "w").write("x")
os.rename("left", "kept")
"""
    look = "import math, os; print(math.pi, os.listdir('.'))"
    before = sandbox.run(look, 10).output
    for _ in range(4):
        assert sandbox.run(spoil, 10).ending == "done"

    assert {sandbox.run(look, 10).output for _ in range(4)} == {before}


def test_runs_go_side_by_side(sandbox):
    code = "import time; time.sleep(0.2); print(ID)"
    with ThreadPoolExecutor(8) as threads:
        runs = threads.map(lambda i: sandbox.run(code.replace("ID", str(i)), 10), range(8))

    assert [run.output for run in runs] == [f"{i}\n" for i in range(8)]


def test_who_waits_too_long_for_a_sandbox_is_told(walls):
    with Sandbox(walls, (), LIMITS, workers=1, wait_s=0.1) as sandbox:
        thread = threading.Thread(target=sandbox.run, args=("import time; time.sleep(1)", 10))
        thread.start()
        time.sleep(0.05)
        with pytest.raises(SandboxFailure, match=r"no sandbox was free within 0\.1 s"):
            sandbox.run("print(1)", 10)
        thread.join()


def templates() -> list[int]:
    """Processes below this one."""
    return [pid for child in children_of() for pid in descendants(child)]


def test_a_template_that_is_killed_is_replaced(walls):
    with Sandbox(walls, (), LIMITS, workers=1, wait_s=1) as sandbox:
        before = set(templates())
        sandbox.run("print(1)", 10)
        os.kill(max(set(templates()) - before), signal.SIGKILL)

        assert sandbox.run("print(2)", 10).output == "2\n"


def test_a_run_that_is_killed_from_outside_is_tried_again_and_then_a_failure(walls):
    with Sandbox(walls, (), LIMITS, workers=1, wait_s=1) as sandbox:
        sandbox.run("print(1)", 10)
        template = set(templates())
        is_over = threading.Event()

        def kill_runs():
            while not is_over.wait(0.02):
                for pid in set(templates()) - template:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_runs)
        killer.start()
        try:
            with pytest.raises(SandboxFailure):
                sandbox.run("import time; time.sleep(5)", 10)
        finally:
            is_over.set()
            killer.join()


def test_nothing_is_left_when_a_sandbox_is_closed(walls, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = set(templates())
    sandbox = Sandbox(walls, (), LIMITS, workers=1, wait_s=1)
    thread = threading.Thread(target=lambda: failure_of(sandbox, "import time; time.sleep(60)"))
    thread.start()
    while len(set(templates()) - before) < 2:
        time.sleep(0.01)
    sandbox.close()
    thread.join(10)

    assert not thread.is_alive()
    assert set(templates()) <= before
    assert list(tmp_path.iterdir()) == []
    assert failure_of(sandbox, "print(1)") == "the sandbox is closed"


def failure_of(sandbox: Sandbox, code: str) -> str:
    with pytest.raises(SandboxFailure) as caught:
        sandbox.run(code, 10)
    return str(caught.value)


TRAINER = """
import sys
from megatron_stare.tools.sandbox.confine import Limits
from megatron_stare.tools.sandbox.pool import Sandbox
sandbox = Sandbox(sys.argv[1], (), Limits(60, 1 << 28, 1 << 20, 1000), workers=1, wait_s=1)
sandbox.run("print(1)", 10)
print("ready", flush=True)
sandbox.run("import time; time.sleep(60)", 60)
"""


def test_nothing_outlives_a_trainer_that_is_killed(walls):
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER, walls], stdout=subprocess.PIPE)
    assert trainer.stdout is not None
    trainer.stdout.readline()
    below = set(descendants(trainer.pid)) - {trainer.pid}
    assert below
    trainer.kill()
    trainer.communicate()
    deadline = time.monotonic() + 10
    while (left := {pid for pid in below if is_alive(pid)}) and time.monotonic() < deadline:
        time.sleep(0.02)

    assert left == set()


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_package_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="package no_such_package is not installed"):
        Sandbox("none", ("no_such_package",), LIMITS, workers=1, wait_s=1)
