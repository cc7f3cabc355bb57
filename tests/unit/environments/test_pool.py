"""Environments in processes: what they say, and what is said of one that fails."""

import os
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from megatron_stare.config.environments import EnvironmentConfig, EnvironmentsConfig
from megatron_stare.environments.pool import EnvironmentFailure, EnvironmentPool
from megatron_stare.rewards.killable import start_killable

GAMES = "tests.unit.environments.games"


def environment(name: str, **params: object) -> EnvironmentConfig:
    return EnvironmentConfig(name=f"{GAMES}:{name}", params=params)


@pytest.fixture(scope="module")
def pool():
    config = EnvironmentsConfig(workers=1, memory_gib=2.0)
    with EnvironmentPool(config, max_attempts=1) as pool:
        yield pool


def test_an_episode_is_played_step_by_step(pool):
    session = pool.open(environment("Diary"), 7)
    assert [step.observation for step in pool.play(session, [])] == ["begins with 7"]
    for texts, said in ((["x"], "7|x"), (["x", "y"], "7|x|y")):
        (step,) = pool.play(session, texts)
        assert (step.observation, step.reward) == (said, len(texts) + 1.0)


def test_the_example_of_the_docs_is_an_environment(tmp_path, monkeypatch):
    """It can be played to its end, by what it says."""
    text = (Path(__file__).parents[3] / "docs" / "environments.md").read_text()
    lines = text.partition("## One of your own")[2].partition("It is named by")[0]
    (tmp_path / "mygames.py").write_text(textwrap.dedent(lines))
    monkeypatch.syspath_prepend(tmp_path)
    guess = EnvironmentConfig(name="mygames:Guess", params={"highest": 99})
    with EnvironmentPool(EnvironmentsConfig(workers=1), max_attempts=1) as pool:
        session, guesses, low, high = pool.open(guess, 7), list[str](), 0, 99
        (step,) = pool.play(session, [])
        assert step.observation == "Guess my number, from 0 to 99."
        while not step.done:
            guesses.append(str((low + high) // 2))
            (step,) = pool.play(session, guesses)
            low = int(guesses[-1]) + 1 if step.observation == "More." else low
            high = int(guesses[-1]) - 1 if step.observation == "Less." else high
    assert (step.observation, step.reward) == ("Right.", 1.0)
    assert len(guesses) <= 7


def test_sessions_of_one_process_do_not_meet(pool):
    one, other = (pool.open(environment("Diary"), start) for start in ("a", "b"))
    for texts in (["x"], ["x", "y"]):
        assert pool.play(one, texts)[-1].observation == "|".join(["a", *texts])
        assert pool.play(other, texts)[-1].observation == "|".join(["b", *texts])


def test_what_begins_in_the_middle_is_told_all_of_it(pool):
    session = pool.open(environment("Diary"), 5)
    steps = pool.play(session, ["x", "y", "z"])
    assert [step.observation for step in steps] == ["begins with 5", "5|x", "5|x|y", "5|x|y|z"]
    assert [step.reward for step in steps] == [0.0, 2.0, 3.0, 4.0]


def test_what_is_over_is_forgotten(pool):
    session = pool.open(environment("Diary"), 5)
    pool.play(session, ["x"])
    pool.forget(session)
    assert len(pool.play(session, ["x", "y"])) == 3, "it began again"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("raise", "RuntimeError: no"),
        ("exit", "SystemExit: 3"),
        ("die", "process died (exit code -9)"),
        ("memory", "memory limit of 2 GiB"),
    ],
)
def test_an_environment_that_fails_says_why_and_the_next_try_is_in_a_fresh_process(
    pool, tmp_path, text, cause
):
    session = pool.open(environment("Diary", folder=str(tmp_path)), 5)
    pool.play(session, ["x"])
    with pytest.raises(EnvironmentFailure) as failure:
        pool.play(session, ["x", f"{text} once"])
    assert str(failure.value) == cause
    steps = pool.play(session, ["x", f"{text} once"])
    assert [step.observation for step in steps][-1] == f"5|x|{text} once"
    assert len(steps) == 3


def test_an_environment_that_hangs_is_ended_at_its_deadline():
    with EnvironmentPool(EnvironmentsConfig(workers=1, deadline_s=1.0), max_attempts=1) as pool:
        session = pool.open(environment("Diary"), 5)
        with pytest.raises(EnvironmentFailure, match="deadline of 1 s"):
            pool.play(session, ["hang"])


def test_a_failed_step_is_tried_once_more_in_a_fresh_process(tmp_path):
    config = EnvironmentsConfig(workers=1)
    with EnvironmentPool(config, max_attempts=2) as pool:
        session = pool.open(environment("Diary", folder=str(tmp_path)), 5)
        before = pool.play(session, ["who"])[-1].observation
        (*_, after) = pool.play(session, ["who", "die once", "who"])
        assert after.observation.startswith("5|who|die once|who (")
        assert after.observation.rpartition("(")[2] != before.rpartition("(")[2]


def test_a_child_that_an_environment_forked_says_nothing(pool):
    session = pool.open(environment("Diary"), 5)
    assert pool.play(session, ["fork", "x"])[-1].observation == "5|fork|x"


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (None, "TypeError: step gave None, expected (observation, reward, done)"),
        (["a", 1.0], "TypeError: step gave ('a', 1.0), expected"),
        ([1, 1.0, True], "TypeError: expected text, found 1"),
        (["a", "b", True], "TypeError: the environment returned 'b', expected a number"),
        (["a", 1e19, True], "rewards of {'': 1e+19}, expected them within 1e+18"),
        (["a" * 100_001, 1.0, True], "ValueError: expected 100000 characters at most"),
    ],
)
def test_what_is_no_step_is_a_failure(pool, answer, cause):
    session = pool.open(environment("Wrong", answer=answer), 0)
    with pytest.raises(EnvironmentFailure) as failure:
        pool.play(session, ["x"])
    assert str(failure.value).startswith(cause)


@pytest.mark.parametrize(
    ("name", "params", "cause"),
    [
        ("Nothing", {}, "AttributeError: module 'tests.unit.environments.games' has no attribute"),
        ("Wrong", {"raises": True}, "ValueError: it has no such params"),
        ("Wrong", {"other": 1}, "TypeError: Wrong.__init__() got an unexpected keyword argument"),
    ],
)
def test_what_cannot_be_made_says_why(pool, name, params, cause):
    with pytest.raises(EnvironmentFailure) as failure:
        pool.play(pool.open(environment(name, **params), 0), None)
    assert str(failure.value).startswith(cause)


def test_nothing_is_left_of_a_pool_that_is_closed():
    pool = EnvironmentPool(EnvironmentsConfig(workers=1), max_attempts=1)
    session = pool.open(environment("Diary"), 5)
    said = pool.play(session, ["who"])[-1].observation
    process = int(said.rpartition("(")[2].rstrip(")"))
    assert Path(f"/proc/{process}").exists()
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with pytest.raises(EnvironmentFailure, match="the environments are closed"):
        pool.play(session, ["who"])


@pytest.mark.parametrize("moment", ["while it plays", "while its process starts"])
def test_a_pool_that_is_closed_in_use_waits_for_no_environment(monkeypatch, moment):
    """The deadline of what it plays is ten minutes; whoever waits for a step learns why."""
    begun, go_on = threading.Event(), threading.Event()

    def started(*arguments):
        process = start_killable(*arguments)
        begun.set()
        assert moment == "while it plays" or go_on.wait(60)
        return process

    monkeypatch.setattr("megatron_stare.environments.pool.start_killable", started)
    pool = EnvironmentPool(EnvironmentsConfig(workers=1, deadline_s=600.0), max_attempts=3)
    session = pool.open(environment("Diary"), 5)
    with ThreadPoolExecutor() as threads:
        playing = threads.submit(pool.play, session, ["hang"])
        assert begun.wait(60)
        closing = threads.submit(pool.close)
        assert moment == "while it plays" or not closing.done()
        go_on.set()
        closing.result(60)
        with pytest.raises(EnvironmentFailure, match="the environments are closed"):
            playing.result(60)
