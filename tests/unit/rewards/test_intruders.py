"""Whatever a verification leaves behind or says in another's name, others keep their verdicts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_stare.rewards.pool import VerifierPool
from megatron_stare.rewards.worker import Setup
from tests.children import children_named
from tests.unit.rewards.intruders import ACTIONS
from tests.unit.rewards.test_pool import REPOSITORY, is_running, wait_until

INTRUDERS = "tests.unit.rewards.intruders"
WORKER = "megatron_stare.rewards.worker"
BROKEN = "broke the connection of its process"
FAILURES = {
    "write garbage": BROKEN,
    "write a long line": BROKEN,
    "write deep JSON": BROKEN,
    "write half a line": BROKEN,
    "forge verdicts": BROKEN,
    "flood": "deadline of 2 s",
    "die and leave a child": "process died (exit code 4)",
}
"""Of the verification that acts; others keep their verdict, 0.25."""


def open_pool(function: str = f"{INTRUDERS}:judge", *, num_workers: int = 1) -> VerifierPool:
    setup = Setup(function, None, memory_bytes=2**28, import_path=tuple(sys.path))
    return VerifierPool(setup, num_workers=num_workers, deadline_s=2.0)


@pytest.mark.slow
@pytest.mark.parametrize("action", ACTIONS)
def test_a_verification_that_meddles_costs_no_other_its_verdict(action: str):
    numbers = [(str(number), "") for number in range(6)]
    with open_pool() as pool:
        first, *others = pool.run([(action, ""), *numbers])
        again = pool.run(numbers)
    assert [(v.value, v.failure) for v in [*others, *again]] == [
        (float(number), None) for number in [*range(6), *range(6)]
    ]
    if action in FAILURES:
        assert first.failure == FAILURES[action]
    elif action in ("close everything", "shut connections down"):
        assert first.failure is not None
        assert first.failure.startswith("process died")  # By itself, or killed as it is mute.
    else:
        own = 7.0 if action == "fork for its exit code" else 0.25
        assert (first.value, first.failure) == (own, None)


@pytest.mark.parametrize("action", ["fork, exit late", "fork, raise", "fork, return late"])
def test_what_a_verifier_forked_leaves_without_a_word(action: str):
    numbers = [(str(number), "") for number in range(8)]
    with open_pool(num_workers=2) as pool:
        verdicts = pool.run([*numbers, (action, ""), *numbers])
    expected = [*map(float, range(8)), 0.25, *map(float, range(8))]
    assert [(v.value, v.failure) for v in verdicts] == [(value, None) for value in expected]


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["", " " * 200_000], ids=["small", "larger than a socket"])
def test_a_stopped_idle_worker_is_replaced_and_no_item_pays(padding: str):
    with open_pool() as pool:
        pool.run([("1", "")])
        (worker,) = children_named(WORKER)
        os.kill(worker, signal.SIGSTOP)
        verdicts = pool.run([(f"{number}{padding}", "") for number in range(8)])
        assert [(v.value, v.failure) for v in verdicts] == [(float(n), None) for n in range(8)]
        assert not is_running(worker)


TRAINER = f"""
import sys, time
from megatron_stare.rewards.pool import VerifierPool
from megatron_stare.rewards.worker import Setup
setup = Setup("{INTRUDERS}:judge", None, 2**30, tuple(sys.path))
pool = VerifierPool(setup, num_workers=1, deadline_s=1000)
pool.run([("1", "")])
print(pool._workers[0].process.pid, flush=True)
time.sleep(1000)
"""


def test_a_stopped_worker_does_not_outlive_its_trainer(tmp_path: Path):
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    worker = int(trainer.stdout.readline())
    os.kill(worker, signal.SIGSTOP)
    trainer.kill()
    trainer.communicate()
    assert wait_until(lambda: not is_running(worker))
