"""Verifications that hang, crash or eat memory cost themselves, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from megatron_stare.errors import UserError
from megatron_stare.rewards.pool import VerifierPool
from megatron_stare.rewards.worker import Setup
from megatron_stare.system.stop_signals import SIGNALS
from tests.children import children_named
from tests.unit.rewards.verifiers import ACTIONS

VERIFIERS = "tests.unit.rewards.verifiers"
EXACT = "megatron_stare.rewards.answers:exact_reward"
REPOSITORY = Path(__file__).parents[3]

DEADLINE = "deadline of 2 s"
MEMORY = "memory limit of 0.0625 GiB"
FAILURES = {
    "loop forever": DEADLINE,
    "backtrack": DEADLINE,
    "hold the lock": DEADLINE,
    "exit": "process died (exit code 3)",
    "segfault": "process died (exit code -11)",
    "allocate at once": MEMORY,
    "allocate by and by": MEMORY,
    "raise": "ValueError: no such thing",
    "raise SystemExit": "SystemExit: bye",
    "return text": "TypeError: the verifier returned '1.0', expected a number",
    "return nothing": "TypeError: the verifier returned None, expected a number",
    "return nan": "ValueError: the verifier returned nan, expected a finite number",
}
HARMLESS = {"print": 1.0, "return half": 0.5}


def make_setup(function: str, *, format_pattern: str | None = None) -> Setup:
    return Setup(function, format_pattern, memory_bytes=2**26, import_path=tuple(sys.path))


@pytest.fixture
def open_pool() -> Iterator[Callable[..., VerifierPool]]:
    pools = []

    def opened(function: str, *, num_workers: int = 2, deadline_s: float = 20.0) -> VerifierPool:
        setup = make_setup(function)
        pools.append(VerifierPool(setup, num_workers=num_workers, deadline_s=deadline_s))
        return pools[-1]

    yield opened
    for pool in pools:
        pool.close()


def is_running(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_misbehaviour_costs_its_own_sample_a_named_failure_and_nothing_else(open_pool):
    assert FAILURES.keys() | HARMLESS.keys() == ACTIONS.keys()
    items = [item for action in ACTIONS for item in [(action, ""), ("x", "x"), ("x", "y")]]

    verdicts = open_pool(f"{VERIFIERS}:act", num_workers=3, deadline_s=2.0).run(items)

    of_actions = dict(zip(ACTIONS, verdicts[::3], strict=True))
    assert {action: verdict.failure for action, verdict in of_actions.items()} == {
        action: FAILURES.get(action) for action in ACTIONS
    }
    assert {a: v.value for a, v in of_actions.items() if v.failure is None} == HARMLESS
    assert [verdict.value for verdict in verdicts[1::3]] == [1.0] * len(ACTIONS)
    assert [verdict.value for verdict in verdicts[2::3]] == [0.0] * len(ACTIONS)
    assert not any(verdict.failure for verdict in verdicts[1::3] + verdicts[2::3])


def test_a_deadline_is_of_one_verification_not_of_all_that_were_sent(open_pool):
    naps = [("0.1", "")] * 8
    verdicts = open_pool(f"{VERIFIERS}:nap", num_workers=1, deadline_s=0.7).run(naps)
    assert [verdict.failure for verdict in verdicts] == [None] * 8
    assert all(verdict.seconds >= 0.1 for verdict in verdicts)


def test_verdicts_keep_the_order_of_the_items(open_pool):
    items = [(str(number), "") for number in range(500)]
    verdicts = open_pool(f"{VERIFIERS}:number").run(items)
    assert [verdict.value for verdict in verdicts] == list(range(500))


def test_workers_are_started_for_work_only_and_are_kept(open_pool):
    pool = open_pool(f"{VERIFIERS}:process_id", num_workers=2)
    assert pool.run([]) == []
    first = {verdict.value for verdict in pool.run([("", "")])}
    later = {verdict.value for _ in range(3) for verdict in pool.run([("", "")] * 100)}
    assert len(first) == 1
    assert len(later) == 2
    assert first < later


def test_what_a_hanging_verification_started_is_killed_with_it(open_pool, tmp_path: Path):
    pid_file = tmp_path / "pid"
    pool = open_pool(f"{VERIFIERS}:start_a_process_and_hang", deadline_s=1.0)
    assert pool.run([("", str(pid_file))])[0].failure == "deadline of 1 s"
    assert wait_until(lambda: not is_running(int(pid_file.read_text())))


def test_close_leaves_no_process_not_even_a_zombie(open_pool):
    pool = open_pool(f"{VERIFIERS}:process_id")
    pids = {int(verdict.value) for verdict in pool.run([("", "")] * 100)}
    pool.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_die_with_the_trainer_even_in_c_code(tmp_path: Path):
    pid_file = tmp_path / "pid"
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER, str(pid_file)], cwd=REPOSITORY)
    assert wait_until(lambda: pid_file.exists() and pid_file.read_text() != "")
    worker = int(pid_file.read_text())
    assert is_running(worker)
    trainer.kill()
    trainer.wait()
    assert wait_until(lambda: not is_running(worker), seconds=5.0)


TRAINER = f"""
import sys
from megatron_stare.rewards.pool import VerifierPool
from megatron_stare.rewards.worker import Setup
setup = Setup("{VERIFIERS}:report_and_hang", None, 2**30, tuple(sys.path))
VerifierPool(setup, num_workers=1, deadline_s=1000).run([("", sys.argv[1])])
"""


def test_a_worker_killed_while_idle_costs_nothing(open_pool):
    pool = open_pool(f"{VERIFIERS}:process_id", num_workers=1)
    victim = int(pool.run([("", "")])[0].value)
    os.kill(victim, signal.SIGKILL)
    assert wait_until(lambda: not is_running(victim))
    verdict = pool.run([("", "")])[0]
    assert verdict.failure is None
    assert verdict.value != victim


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_that_ask_the_trainer_to_stop_cost_no_verdict(open_pool, number):
    """Slurm sends them to every process of a job's step, at whatever it is."""
    pool = open_pool(f"{VERIFIERS}:nap", num_workers=2)
    with ThreadPoolExecutor(1) as thread:
        verdicts = thread.submit(pool.run, [("0.1", "")] * 12)
        signalled = set()
        while not verdicts.done():  # From the moment that the first worker is there.
            for pid in children_named("megatron_stare.rewards.worker"):
                os.kill(pid, number)
                signalled.add(pid)
    assert [verdict.failure for verdict in verdicts.result()] == [None] * 12
    assert len(signalled) == 2


def test_what_a_verifier_starts_can_be_ended_by_a_signal(open_pool):
    assert open_pool(f"{VERIFIERS}:terminate_a_process").run([("", "")])[0].value == -signal.SIGTERM


def test_a_run_that_is_interrupted_leaves_no_answers_to_the_next(open_pool):
    pool = open_pool(f"{VERIFIERS}:number", num_workers=2)
    not_picklable = ("", lambda: "")
    with pytest.raises(AttributeError):
        pool.run([("1", ""), not_picklable, ("2", "")])
    assert [verdict.value for verdict in pool.run([("3", ""), ("4", "")])] == [3.0, 4.0]


def test_it_runs_in_a_thread_that_ends(open_pool):
    pool = open_pool(EXACT)
    for _ in range(2):
        with ThreadPoolExecutor(1) as thread:
            verdicts = thread.submit(pool.run, [("yes", "yes"), ("no", "yes")]).result()
        assert [verdict.value for verdict in verdicts] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("no_such_package.rewards:score", "No module named 'no_such_package'"),
        (f"{VERIFIERS}:no_such_function", "has no attribute 'no_such_function'"),
        (f"{VERIFIERS}:NOT_A_FUNCTION", "is a float, expected a function"),
    ],
)
def test_a_function_that_cannot_be_imported_is_named_at_the_start(
    open_pool, function: str, reason: str
):
    with pytest.raises(UserError, match=reason) as error:
        open_pool(function).start()
    assert function in str(error.value)


def test_a_pattern_is_matched_against_the_whole_response_lines_and_all():
    pattern = r"<think>.*</think>\n\d+"
    setup = make_setup(EXACT, format_pattern=pattern)
    responses = ["<think>a\nb</think>\n4", "<think>a\nb</think>\n4.", "4"]
    with VerifierPool(setup, num_workers=1, deadline_s=20.0) as pool:
        verdicts = pool.run([(response, "4") for response in responses])
    assert [verdict.matches_format for verdict in verdicts] == [True, False, False]
