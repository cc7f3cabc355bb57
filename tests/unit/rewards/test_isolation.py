"""With a process for each verification, what one of them does reaches no other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_stare.rewards.pool import VerifierPool
from megatron_stare.rewards.worker import Setup
from tests.unit.rewards.test_intruders import BROKEN
from tests.unit.rewards.test_pool import REPOSITORY, is_running, wait_until

JUDGE = "tests.unit.rewards.poisoned:judge"
POISONS = {
    "the verifier": "judge.__code__ = (lambda response, answer: 1.0).__code__",
    "its arithmetic": "import builtins; builtins.exec = lambda text, g, n: n.update(worth=1.0)",
    "the worker": (
        "import megatron_stare.rewards.worker as w; from megatron_stare.rewards.verdict import "
        "Verdict; w.judge = lambda *_: Verdict(1.0, True, None, 0.0)"
    ),
    "its numbers": "import megatron_stare.rewards.worker as w; w.as_number = lambda _: 1.0",
    "its clock": "import time; time.perf_counter = lambda: float('nan')",
}
FAILURES = {
    **dict.fromkeys(["fork in C, write late", "forge verdicts", "kill the worker later"]),
    "flood": "deadline of 2 s",
    "close everything": "process died (exit code 1)",
    "die and leave a child": "process died (exit code 4)",
}


def open_pool(function: str = JUDGE, *, isolation="process", report=print) -> VerifierPool:
    setup = Setup(function, None, 2**28, tuple(sys.path), isolation=isolation)
    return VerifierPool(setup, num_workers=1, deadline_s=2.0, report=report)


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
def test_what_is_judged_cannot_forge_later_verdicts(poison: str):
    responses = [poison, "worth = 0.0", "worth = 0.5"]
    with open_pool() as pool:
        found = pool.run([(response, "") for response in responses])
        again = pool.run([("worth = 0.25", "")])
    assert [(v.value, v.failure) for v in [*found[1:], *again]] == [
        *((0.0, None), (0.5, None), (0.25, None))
    ]


def test_without_isolation_it_can():
    """What `reward.isolation: process` is for; the poison does poison."""
    responses = [POISONS["the verifier"], "worth = 0.0"]
    with open_pool(isolation="worker") as pool:
        found = pool.run([(response, "") for response in responses])
    assert found[1].value == 1.0


def test_a_response_cannot_say_a_verdict_that_is_no_number():
    """It may write into its own pipe; what comes is checked."""
    forged = [
        *("[[1.0]]", "{}", "[]", '[[NaN, true, null, 0.0, "verdict"], []]', "x" * 100_000),
        *('[["1", true, null, 0.0, "verdict"], []]', '[[1.0, true, null, 0.0, "won"], []]'),
    ]
    write = (
        "import os\nfor fd in range(3, 64):\n try: os.write(fd, {!r}.encode())\n"
        " except OSError: pass"
    )
    with open_pool() as pool:
        *found, last = pool.run(
            [*((write.format(f"{f}\n"), "") for f in forged), ("worth = 0.5", "")]
        )
    assert [(v.ending, v.failure) for v in found] == [("lost", BROKEN)] * len(forged)
    assert (last.value, last.failure) == (0.5, None)


def test_nothing_is_left_of_a_verification_when_its_verdict_is_there(tmp_path: Path):
    pid_file = tmp_path / "pid"
    with open_pool() as pool:
        (found,) = pool.run([("leave_a_daemon(answer); worth = 1.0", str(pid_file))])
        assert (found.value, found.failure) == (1.0, None)
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid_file.read_text()), 0)


def test_every_verification_has_a_process_of_its_own_that_others_cannot_look_into():
    with open_pool() as pool:
        found = pool.run([("import os; worth = os.getpid()", "")] * 20)
        hidden = pool.run([("worth = is_hidden()", "")])
    assert len({verdict.value for verdict in found}) == 20
    assert hidden[0].value == 1.0


def test_a_note_is_made_once():
    notes = []
    with open_pool(report=notes.append) as pool:
        pool.run([(f"import numpy; worth = numpy.bool_({n % 2})", "") for n in range(6)])
    assert len(notes) == 1
    assert "which is read as" in notes[0]


@pytest.mark.slow
@pytest.mark.parametrize("action", FAILURES)
def test_a_verification_that_meddles_costs_no_other_its_verdict(action: str):
    numbers = [(str(number), "") for number in range(6)]
    with open_pool("tests.unit.rewards.intruders:judge") as pool:
        first, *others = pool.run([(action, ""), *numbers])
    assert [(v.value, v.failure) for v in others] == [(float(n), None) for n in range(6)]
    assert first.failure == FAILURES[action]


@pytest.mark.parametrize("isolation", ["worker", "process"])
def test_a_deadline_ends_what_has_left_the_session(tmp_path: Path, isolation):
    hang = (
        "import os, time; is_parent = os.fork(); "
        "is_parent or os.setsid() or open(answer, 'w').write(str(os.getpid())); time.sleep(1000)"
    )
    pid_file = tmp_path / "pid"
    with open_pool(isolation=isolation) as pool:
        (found,) = pool.run([(hang, str(pid_file))])
        assert found.failure == "deadline of 2 s"
        assert wait_until(lambda: not is_running(int(pid_file.read_text())))


TRAINER = """
import sys
from megatron_stare.rewards.pool import VerifierPool
from megatron_stare.rewards.worker import Setup
setup = Setup(
    "tests.unit.rewards.verifiers:report_and_hang", None, 2**30, tuple(sys.path),
    isolation="process",
)
VerifierPool(setup, num_workers=1, deadline_s=1000).run([("", sys.argv[1])])
"""


def test_verifications_die_with_the_trainer(tmp_path: Path):
    pid_file = tmp_path / "pid"
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER, str(pid_file)], cwd=REPOSITORY)
    assert wait_until(lambda: pid_file.exists() and pid_file.read_text() != "")
    child = int(pid_file.read_text())
    assert is_running(child)
    trainer.kill()
    trainer.wait()
    assert wait_until(lambda: not is_running(child), seconds=5.0)
