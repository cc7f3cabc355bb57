"""Agents that fail, and engines that do not answer them: never a reward, and nobody waits."""

from __future__ import annotations

import threading
import time

import pytest

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.engine import Request
from tests.unit.rollout.agents.stage import AGENTS, asked, opened, play, post, user
from tests.unit.rollout.workflow.episodes import Speaker


@pytest.mark.parametrize(
    ("agent", "cause"),
    [
        (lambda *_: {}["lost"], "KeyError: 'lost'"),
        (lambda *_: None, "the agent has ended, and the model was never asked"),
        (
            lambda url, key, row: post(url, key, [user("?")]) and "right",
            "the agent returned 'right', expected a number, or None",
        ),
        (
            lambda url, key, row: post(url, key, [user("?")]) and float("nan"),
            "the agent returned nan, expected a number, or None",
        ),
    ],
)
def test_an_agent_that_fails_is_tried_again_and_then_is_no_reward(agent, cause):
    tries = []

    def counted(*arguments):
        tries.append(1)
        return agent(*arguments)

    sample = play(counted, ["42"], max_attempts=3)
    assert len(tries) == 3
    assert sample.finish_reason == "failed"
    assert sample.turns[-1].failure == f"the agent: {cause}"


def test_an_agent_that_succeeds_at_last_has_only_that_try_recorded():
    tries = []

    def agent(base_url, api_key, row):
        tries.append(post(base_url, api_key, [user(f"Try {len(tries)}")]))
        if len(tries) == 1:
            raise ConnectionError("its own tool is away")

    sample = play(agent, ["42"], max_attempts=2)
    assert sample.finish_reason == "stop"
    assert "Try 1" in sample.turns[0].text


def test_an_agent_that_hangs_fails_by_its_deadline_and_holds_nobody_up():
    forever = threading.Event()
    AGENTS["slow"] = lambda *_: forever.wait()
    AGENTS["quick"] = lambda url, key, row: post(url, key, [user("?")]).json() and 1
    requests = [Request(asked("slow"), 0), Request(asked("quick"), 0)]
    with opened(Speaker({"quick": ["42"]}, in_rounds=True), deadline_s=2.0) as engine:
        samples = list(engine.generate(requests, SamplingConfig(), seed=0))
        assert engine.messages == [
            "1 tries of the agent failed: 1 with nothing came from it for 2 s"
        ]
    forever.set()
    assert {s.prompt.uid: s.finish_reason for s in samples} == {"slow": "failed", "quick": "stop"}


def test_what_no_server_answers_is_an_error_for_the_agent_and_no_reward():
    class Deaf(Speaker):
        def generate(self, requests, sampling, *, seed, more):
            while more.take("any"):
                yield from ()

    def agent(base_url, api_key, row):
        answer = post(base_url, api_key, [user("?")])
        assert answer.status_code == 503
        answer.raise_for_status()

    sample = play(agent, (), speaker=Deaf({}))
    assert sample.finish_reason == "failed"
    assert "503" in sample.turns[-1].failure


def test_a_run_that_is_interrupted_gives_no_half_samples_and_answers_nobody():
    answered = []

    class Interrupted(Speaker):
        def _answer(self, request, sampling):
            engine.interrupt()
            return super()._answer(request, sampling)

    AGENTS["6 * 7?"] = lambda url, key, row: answered.append(post(url, key, [user("?")]))
    with opened(Interrupted({"6 * 7?": ["42 and more"]})) as engine:
        assert list(engine.generate([Request(asked("6 * 7?"), 0)], SamplingConfig(), seed=0)) == []
        deadline = time.monotonic() + 20
        while not answered and time.monotonic() < deadline:
            time.sleep(0.05)
    assert [answer.status_code for answer in answered] == [503]
