"""What a tool is: something with a JSON schema that answers calls with text.

    tool.start()                              ready, or a UserError: once, before the first sample
    session = tool.session()                  for one sample; calls of it come one after the other
    session.call({"code": "print(1)"}, 20.0)  -> ToolResult("1\\n", ok=True)
    session.close()                           tool.session(calls before) stands where it stood
    tool.close()

Sessions of one tool may be used at the same time, each from one thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Arguments = Mapping[str, Any]
"""Of a call, by the names of the schema's properties; checked by the tool."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came of a call.

    text      for the model to read
    ok        whether the call did what it was to do: False for what the model did wrong (invalid
              arguments, code that raises or runs into a limit), and wherever there is a failure
    failure   why the tool could not do its work, where that is not the model's doing: a server that
              is away, a sandbox that died. Such a call says nothing of the sample
    seconds   that it took, waiting included
    """

    text: str
    ok: bool
    failure: str | None = None
    seconds: float = 0.0


class Session(Protocol):
    """What one sample has of a tool."""

    def call(self, arguments: Arguments, deadline_s: float) -> ToolResult:
        """Answer within `deadline_s` and a little; nothing that a model sends raises."""
        ...

    def close(self) -> None:
        """Let go of what it holds; there are no calls after."""
        ...


class Tool(Protocol):
    """A tool by its name."""

    @property
    def name(self) -> str:
        """What the model calls it by."""
        ...

    @property
    def schema(self) -> dict[str, Any]:
        """As chat templates take it: `{"type": "function", "function": {"name": ..., ...}}`."""
        ...

    @property
    def remembers(self) -> bool:
        """Whether what a call gives may depend on the sample's calls before it."""
        ...

    def start(self) -> None:
        """Get ready; UserError where it cannot work here."""
        ...

    def session(self, log: Sequence[Arguments] = ()) -> Session:
        """For one sample, which has called this tool with such arguments before, right or wrong."""
        ...

    def close(self) -> None:
        """End its processes."""
        ...
