"""Environments on a real server of OpenEnv, whose package has an environment of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import pytest

from megatron_stare.environments.open_env import OpenEnv
from tests.e2e.kills import assert_same_run, finish, kill_and_go_on
from tests.e2e.programs import REPO, SHORT_TURNS, make_turn_workspace, metrics_of

PYTHON = REPO / ".venv-openenv/bin/python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (REPO / ".venv-openenv/.setup-stamp").exists(),
        reason="no .venv-openenv: tools/setup_openenv_env.sh was not run, or failed",
    ),
]
SESSIONS = 12


@contextmanager
def serving(sessions: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server with room for so many episodes: its URL, and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("guessing_server.py")
    process = subprocess.Popen([PYTHON, script, str(port), str(sessions)])
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not _answers(url):
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield url, process
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture
def opened(url) -> Iterator[Callable[..., OpenEnv]]:
    """Makes environments on the server, and ends their sessions."""
    with ExitStack() as stack:
        yield lambda **params: stack.enter_context(closing(OpenEnv(url, **params)))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(SESSIONS) as (url, _):
        yield url


def test_an_episode_is_that_of_its_seed(opened):
    environment = opened(text="message", shows=["text"])
    found = []
    for _ in range(2):
        said = [environment.reset(7)]
        steps = [environment.step(guess) for guess in ("1", "2", "3")]
        found.append((said, steps))
    assert found[0] == found[1]
    said, steps = found[0]
    assert said == ["Guess my number, from 0 to 9."]
    assert steps[0].observation == "Not '1'."
    assert [step.done for step in steps] == [False, False, True]


def test_episodes_run_side_by_side(opened):
    """More than there are sessions for, one after the other: an end frees its place."""
    for start in range(0, 3 * SESSIONS, SESSIONS):
        environments = [opened(text="message", shows=["text"]) for _ in range(SESSIONS)]
        for seed, environment in enumerate(environments, start):
            environment.reset(seed)
        for guess in map(str, range(3)):
            steps = [environment.step(guess) for environment in environments]
            assert {step.observation for step in steps} <= {"Right.", f"Not '{guess}'."}
            environments = [e for e, step in zip(environments, steps, strict=True) if not step.done]
        assert environments == []


def test_what_is_right_is_worth_less_with_each_guess(opened):
    environment, worth = opened(text="message", shows=["text"]), []
    for seed in range(40):
        environment.reset(seed)
        for guess in ("0", "1", "2"):
            step = environment.step(guess)
            if step.observation == "Right.":
                assert step.done
                worth.append((guess, step.reward))
                break
    assert set(worth) == {("0", 1.0), ("1", 0.9), ("2", 0.8)}


def test_a_reset_is_told_what_it_is_to_be_told(opened):
    environment = opened(text="message", shows=["text"], reset={"lowest": 8})
    assert environment.reset(0) == "Guess my number, from 8 to 9."


def test_without_fields_to_show_all_are(opened):
    assert opened(text="message").reset(0) == (
        "text: Guess my number, from 0 to 9.\nnum_guesses: 0"
    )


def test_an_action_may_be_written_as_json(opened):
    environment = opened(shows=["text"])
    environment.reset(7)
    step = environment.step('I try the middle.\n{"message": "1"}')
    assert step.observation == "Not '1'."


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "The last line has to be an action: a JSON object."),
        ("five", "The last line has to be an action: a JSON object."),
        ("[1]", "The last line has to be an action: a JSON object."),
        ("[" * 100_000, "The last line has to be an action: a JSON object."),
        ('{"guess": 5}', "This is no action: message: Field required; guess: Extra inputs"),
        ('{"message": 5}', "This is no action: message: Input should be a valid string"),
    ],
)
def test_what_is_no_action_is_told_to_the_model_and_changes_nothing(opened, text, told):
    environment = opened(shows=["num_guesses"])
    environment.reset(7)
    step = environment.step(text)
    assert step.observation.startswith(told)
    assert (step.reward, step.done) == (0.0, False)
    assert environment.step('{"message": "1"}').observation == "num_guesses: 1"


def test_an_error_of_the_environment_is_its_failure(opened):
    environment = opened(text="message")
    environment.reset(7)
    with pytest.raises(RuntimeError, match="step: EXECUTION_ERROR: the dice are lost"):
        environment.step("break")


def test_a_field_that_observations_lack_is_named(opened):
    with pytest.raises(RuntimeError, match="no 'score', expected some of text, num_guesses"):
        opened(text="message", shows=["score"]).reset(7)


def test_a_server_that_has_no_place_says_so():
    with serving(1) as (url, process):
        first = OpenEnv(url, text="message")
        first.reset(1)
        with pytest.raises(RuntimeError, match="reset: CAPACITY_REACHED"):
            OpenEnv(url, text="message").reset(1)
        first.close()
        second = OpenEnv(url, text="message")
        second.reset(1)
        process.kill()
        process.wait()
        with pytest.raises(RuntimeError, match="step: the server hung up"):
            second.step("1")
        with pytest.raises(OSError, match="refused"):
            OpenEnv(url, text="message").reset(1)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host:1", "http://"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ValueError, match="expected http://host:port or ws://host:port"):
        OpenEnv(url)


class TestRun:
    """Whose policy is random: it writes anything, and now and then ends a turn."""

    @pytest.fixture(scope="class")
    def workspace(self, tmp_path_factory):
        return make_turn_workspace(tmp_path_factory.mktemp("openenv"))

    def settings(self, url: str) -> tuple[str, ...]:
        params = f"{{url: '{url}', text: message, shows: [text]}}"
        source = f"{{environment: {{name: openenv, params: {params}}}, size: 6}}"
        return (
            *("rollout.temperature=20", f"data.sources={{numbers: {source}}}"),
            *("data.template=chat", "data.path=null", "environments.workers=1"),
            "algorithm={method: gigpo}",
            *SHORT_TURNS,
        )

    def test_it_is_trained_and_goes_on_to_the_bit(self, url, workspace, tmp_path):
        whole = finish(workspace, tmp_path / "whole", *self.settings(url))
        steps = metrics_of(whole)
        assert len(steps) == 3
        assert sum(n for name, n in steps[0].items() if name.startswith("turns/ended_")) == 8
        lines = (whole / "samples" / "step_000001.jsonl").read_text().splitlines()
        said = [turn["text"] for s in map(json.loads, lines) for turn in s["turns"][1::2]]
        assert any(text.startswith("Not ") for text in said)
        found = kill_and_go_on(workspace, tmp_path / "killed", *self.settings(url))
        assert_same_run(found, whole)

    def test_without_a_server_it_does_not_begin(self, workspace, tmp_path):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "megatron_stare.cli", "train", workspace / "train.yaml"),
                *(f"run.dir={tmp_path / 'run'}", *self.settings("http://127.0.0.1:9")),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "data.sources.numbers" in done.stderr
        assert "refused" in done.stderr
        assert not (tmp_path / "run").exists()
