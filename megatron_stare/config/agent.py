"""Agents of a user's own, which play episodes over an OpenAI-compatible endpoint."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from megatron_stare.system.settings import Settings
from megatron_stare.system.values import Seconds, matching

OwnFunction = Annotated[
    str,
    AfterValidator(matching(r"\w+(\.\w+)*:\w+", "a function of your own as package.module:name")),
]


class AgentConfig(Settings):
    """An agent that plays the episodes of a run (docs/agents.md)."""

    function: OwnFunction | None = None
    """`package.module:name`, called with `base_url`, `api_key` and `row`; None plays no agent."""
    model: str = Field(default="policy", min_length=1)
    """What it has to call the model."""
    deadline_s: Seconds = 600.0
    """Seconds that it may take from an answer of the model to its next request, or to its end."""
    host: str = "127.0.0.1"
    """Address that the endpoint listens on: others than loopback are open to their networks."""
    port: int = Field(default=0, ge=0, le=65_535)
    """Port; 0 takes a free one."""
