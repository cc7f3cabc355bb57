"""The turns of a sample: what the model wrote, and what answered it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

TurnKind = Literal["model", "observation", "notice"]
TakenAs = Literal["", "call", "answer", "invalid", "void", "cut"]


@dataclass(frozen=True, slots=True)
class Turn:
    """A stretch of a response, tokens `start` to `end`: of the model, or put in by somebody else.

    kind       an observation is what tools said, with what a template writes around it; a notice
               tells the model what was wrong with its turn
    text       without special tokens
    taken_as   what a turn of the model was: calls of tools, invalid ones, an answer, neither
               (`void`), or cut at a limit
    num_calls, num_invalid  of a turn of the model: calls that are made, and that cannot be
    num_ok     of an observation: calls that did what they were to do
    seconds    of an observation: what its tools took
    failure    of tools, which is not the model's; such an observation has no tokens
    """

    start: int
    end: int
    kind: TurnKind
    text: str = ""
    taken_as: TakenAs = ""
    num_calls: int = 0
    num_invalid: int = 0
    num_ok: int = 0
    seconds: float = 0.0
    failure: str | None = None


def turns_to_plain(turns: Sequence[Turn]) -> dict[str, Any]:
    """What a sample's record has more than that of a single turn: nothing, or `turns`."""
    return {"turns": [asdict(turn) for turn in turns]} if turns else {}


def turns_from_plain(record: Mapping[str, Any]) -> dict[str, tuple[Turn, ...]]:
    """A sample's turns, as the field that they are, from a record that may have none."""
    turns: Iterable[dict[str, Any]] = record.get("turns", ())
    return {"turns": tuple(Turn(**turn) for turn in turns)}
