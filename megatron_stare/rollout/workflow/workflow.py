"""What a workflow is: pure functions of an episode, which is a value.

An episode is a sample that has not ended (`aborted`): tokens, which of them the policy chose, and
turns. What is to come follows from it, so that it can be kept, interrupted between any two tokens,
and gone on with by another process.

    episode --next--> Ask    the engine continues its tokens       --completed--> episode
                      Calls  tools are called                      --observed---> episode
                      None   it has ended
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.tools.tool import ToolResult
from megatron_stare.types import Sample


@dataclass(frozen=True, slots=True)
class Ask:
    """The model is to go on, by so many tokens at most, and until one of these."""

    max_tokens: int
    stop_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A call as the model wrote it; one that is not to be made has a problem, for it to read."""

    name: str
    arguments: Mapping[str, Any]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Calls:
    """A turn's calls, in their order; and those that were made before, for tools that remember."""

    calls: Sequence[Call]
    before: Sequence[Call]


class Workflow(Protocol):
    """Plays episodes."""

    def next(self, episode: Sample, sampling: SamplingConfig) -> Ask | Calls | None:
        """What it takes to go on; None where the episode has ended."""
        ...

    def completed(self, episode: Sample, sampling: SamplingConfig) -> Sample:
        """The episode after the engine continued it, which says how by `finish_reason`."""
        ...

    def observed(
        self, episode: Sample, results: Sequence[ToolResult], sampling: SamplingConfig
    ) -> Sample:
        """The episode after its calls were answered, each by one result."""
        ...
