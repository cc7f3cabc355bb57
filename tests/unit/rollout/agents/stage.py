"""An agent for tests: any function, on an engine whose turns are those of a script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from megatron_stare.config.agent import AgentConfig
from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.engine import Request
from megatron_stare.rollout.agents.chat_form import ChatForm
from megatron_stare.rollout.agents.playing import AgentEngine
from megatron_stare.types import Prompt, Sample
from tests.unit.rollout.workflow.episodes import TOKENIZER, Speaker, check

FORM = ChatForm(TOKENIZER)
AGENTS: dict[str, Callable[..., Any]] = {}
"""What `play` has called, by the uid of a prompt."""


def agent(base_url: str, api_key: str, row: dict[str, str]) -> Any:
    """What is named in configs."""
    return AGENTS[row["prompt"]](base_url, api_key, row)


def asked(text: str) -> Prompt:
    return Prompt(text, "test:1", text, (FORM.begins,), "42")


@contextmanager
def opened(speaker: Any, *, max_attempts: int = 1, **config: Any):
    messages: list[str] = []
    settings = AgentConfig(function=f"{__name__}:agent", **config)
    parts = (speaker, settings, FORM, TOKENIZER)
    engine = AgentEngine(*parts, max_attempts=max_attempts, report=messages.append)
    engine.messages = messages
    try:
        yield engine
    finally:
        engine._endpoint.close()


def play(
    function: Callable[..., Any],
    script: Sequence[str],
    *,
    max_response_tokens: int = 3000,
    limits: dict[str, Any] | None = None,
    speaker: Any = None,
    **config: Any,
) -> Sample:
    """The episode of one prompt with this agent, to its end."""
    AGENTS["6 * 7?"] = function
    speaker = speaker or Speaker({"6 * 7?": list(script)})
    sampling = SamplingConfig(max_response_tokens=max_response_tokens, turns=limits or {})
    with opened(speaker, **config) as engine:
        (sample,) = engine.generate([Request(asked("6 * 7?"), 0)], sampling, seed=0)
    check(sample)
    return sample


def post(base_url: str, api_key: str, messages: Any, **more: Any) -> httpx.Response:
    """A request by hand."""
    body = {"model": "policy", "messages": messages, **more}
    headers = {"Authorization": f"Bearer {api_key}"}
    return httpx.post(f"{base_url}/chat/completions", json=body, headers=headers, timeout=30)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
