"""A verification that ends through no doing of its response is tried once more, then lost."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from megatron_stare.config.algorithm import RewardConfig
from megatron_stare.errors import UserError
from megatron_stare.rewards import process
from megatron_stare.rewards.pool import VerifierPool
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.rewards.worker import Setup
from tests.children import children_named
from tests.unit.rewards import breakable
from tests.unit.rewards.test_scorer import make_samples

VERIFIERS = "tests.unit.rewards.verifiers"
BREAKABLE = "tests.unit.rewards.breakable"
LOST = ["exit", "segfault", "allocate at once", "no server", "no process"]
OWN = {
    "raise": "raised",
    "return nothing": "raised",
    "return half": "verdict",
    "time limit of its own": "deadline",
    "time limit of a tool": "deadline",
    "loop forever": "deadline",
}
"""Endings that are the response's own doing."""
ISOLATIONS = pytest.mark.parametrize("isolation", ["worker", "process"])


@pytest.fixture
def open_pool() -> Iterator[Callable[..., VerifierPool]]:
    pools = []

    def opened(function: str, *, isolation="worker", num_workers=2) -> VerifierPool:
        setup = Setup(function, None, 2**26, tuple(sys.path), isolation=isolation)
        pools.append(VerifierPool(setup, num_workers=num_workers, deadline_s=2.0))
        return pools[-1]

    yield opened
    for pool in pools:
        pool.close()


def tries_of(path: Path) -> list[str]:
    """The process of each."""
    return path.read_text().split()


@ISOLATIONS
def test_what_was_lost_is_tried_again_in_a_fresh_process(open_pool, tmp_path, isolation):
    items = [(action, str(tmp_path / action)) for action in LOST]
    verdicts = open_pool(f"{VERIFIERS}:act_at_first", isolation=isolation).run(items)
    assert [(verdict.value, verdict.failure) for verdict in verdicts] == [(1.0, None)] * len(LOST)
    for action in LOST:
        assert len({*tries_of(tmp_path / action)}) == 2


@ISOLATIONS
def test_what_is_lost_twice_is_not_tried_a_third_time(open_pool, tmp_path, isolation):
    items = [(action, str(tmp_path / action)) for action in LOST]
    verdicts = open_pool(f"{VERIFIERS}:act_always", isolation=isolation).run(items)
    assert {verdict.ending for verdict in verdicts} == {"lost"}
    assert [verdict.failure for verdict in verdicts] == [
        "process died (exit code 3)",
        "process died (exit code -11)",
        "memory limit of 0.0625 GiB",
        "ConnectionRefusedError: no judge at port 9",
        "BlockingIOError: cannot fork",
    ]
    assert [len(tries_of(tmp_path / action)) for action in LOST] == [2] * len(LOST)


@ISOLATIONS
def test_what_is_the_responses_own_doing_is_tried_once(open_pool, tmp_path, isolation):
    items = [(action, str(tmp_path / action)) for action in OWN]
    verdicts = open_pool(f"{VERIFIERS}:act_always", isolation=isolation).run(items)
    assert [verdict.ending for verdict in verdicts] == [*OWN.values()]
    assert [len(tries_of(tmp_path / action)) for action in OWN] == [1] * len(OWN)


def test_a_deadline_is_wrong_or_left_out_as_the_config_says(tmp_path):
    actions = ["loop forever", "time limit of its own", "exit", "raise", "return half"]
    samples = make_samples([(action, str(tmp_path / "tries")) for action in actions])
    judged = {}
    for on_deadline in ("wrong", "leave_out"):
        config = RewardConfig(
            kind=f"{VERIFIERS}:act_always", deadline_s=1.0, on_deadline=on_deadline
        )
        with Scorer(config, max_response_tokens=10) as scorer:
            rewards = scorer.score(samples)
        assert [reward.value for reward in rewards] == [0, 0, 0, 0, 0.5]
        assert [reward.failure is None for reward in rewards] == [False] * 4 + [True]
        judged[on_deadline] = [reward.is_judged for reward in rewards]
    assert judged["wrong"] == [True, True, False, True, True]
    assert judged["leave_out"] == [False, False, False, True, True]


def test_all_may_die(open_pool, tmp_path):
    items = [("exit", str(tmp_path / str(number))) for number in range(7)]
    verdicts = open_pool(f"{VERIFIERS}:act_always", num_workers=3).run(items)
    assert [verdict.ending for verdict in verdicts] == ["lost"] * 7
    assert [len(tries_of(Path(path))) for _, path in items] == [2] * 7


@pytest.fixture
def state(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(breakable.STATE, str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["raise", "exit"])
def test_a_verifier_that_cannot_be_started_is_started_again(open_pool, state, how):
    pool = open_pool(f"{BREAKABLE}:judge", num_workers=1)
    pool.start()
    first, *others = pool.run([(f"break 1 {how}", ""), ("1", ""), ("2", "")])
    assert (first.ending, first.failure) == ("lost", "process died (exit code 1)")
    assert [(verdict.value, verdict.failure) for verdict in others] == [(1.0, None), (2.0, None)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "cause"),
    [("raise", "ZeroDivisionError: division by zero"), ("exit", r"process died \(exit code 5\)")],
)
def test_where_it_cannot_be_started_again_what_is_left_is_lost(open_pool, state, how, cause):
    pool = open_pool(f"{BREAKABLE}:judge", num_workers=2)
    pool.start()
    verdicts = pool.run([(f"break 1000 {how}", ""), *[("1", "")] * 70])
    lost = [verdict for verdict in verdicts if verdict.ending == "lost"]
    assert verdicts[0] in lost
    for verdict in lost:
        assert verdict.failure is not None
        assert re.fullmatch(f"its process could not be started: {cause}", verdict.failure)
    state.unlink()
    assert [verdict.value for verdict in pool.run([("1", ""), ("2", "")])] == [1.0, 2.0]


@pytest.mark.slow
def test_an_import_that_lingers_has_its_deadline(open_pool, state, monkeypatch):
    monkeypatch.setattr(process, "_IMPORT_DEADLINE_S", 3.0)
    pool = open_pool(f"{BREAKABLE}:judge", num_workers=1)
    pool.start()
    verdicts = pool.run([("break 1000 linger", ""), ("1", "")])
    failure = "its process could not be started: deadline of 3 s"
    assert [verdict.failure for verdict in verdicts] == [failure] * 2


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        with suppress(OSError):
            while True:
                stack.enter_context(open(os.devnull))
        yield


def test_a_machine_without_file_descriptors_loses_verdicts_not_the_run(open_pool):
    pool = open_pool(f"{VERIFIERS}:number", num_workers=1)
    pool.start()
    (worker,) = children_named("megatron_stare.rewards.worker")
    os.kill(worker, signal.SIGKILL)
    with no_descriptor_left():
        verdicts = pool.run([("1", ""), ("2", "")])
    assert [verdict.ending for verdict in verdicts] == ["lost"] * 2
    assert all("Too many open files" in str(verdict.failure) for verdict in verdicts)
    assert [verdict.value for verdict in pool.run([("1", ""), ("2", "")])] == [1.0, 2.0]


def test_a_verifier_that_never_started_is_still_an_error_of_the_start(open_pool, state):
    state.write_text("break 1000 exit")
    with pytest.raises(UserError, match=r"cannot import .*breakable:judge: process died"):
        open_pool(f"{BREAKABLE}:judge").start()
