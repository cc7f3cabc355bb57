"""The turns of a response, and what a batch says of them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

LARGEST_REWARD = 1e18
"""Either sign: float32 holds its square."""

TurnKind = Literal["model", "observation", "notice"]
TakenAs = Literal["", "call", "answer", "invalid", "void", "cut", "action"]
LEFT_OUT = "\n...(truncated)...\n"
"""What stands in the middle of an observation that was too long."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A stretch of a response, tokens `start` to `end`: of the model, or put in by somebody else.

    kind       an observation is what tools said, with what a template writes around it; a notice
               tells the model what was wrong with its turn
    text       without special tokens
    taken_as   what a turn of the model was: calls of tools, invalid ones, an answer, neither
               (`void`), or cut at a limit; or what it did in an environment
    num_calls, num_invalid  of a turn of the model: calls that are made, and that cannot be
    num_ok     of an observation: calls that did what they were to do
    seconds    of an observation: what its tools took
    failure    of tools, which is not the model's; such an observation has no tokens
    reward     of a turn of the model: what it has earned by itself, while the sample's reward is
               earned by its last turn; None where nothing says what turns earn. In an environment
               it is all that is earned, and the sample's reward is their sum (`earned`)
    anchor     of a turn of the model: the state that it was written in; without any, it is what
               was put in before it
    role       of a turn of the model: which of several players wrote it
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
    reward: float | None = None
    anchor: str = ""
    role: str = ""

    def __post_init__(self) -> None:
        if not abs(self.reward or 0.0) <= LARGEST_REWARD:
            raise ValueError(
                f"a turn has a reward of {self.reward}, expected one within {LARGEST_REWARD:g}"
            )
        if self.reward and not is_own(self):
            raise ValueError(
                f"a turn of {self.kind} from {self.start} to {self.end} has a reward, expected it "
                "of turns of the model that have tokens"
            )


def is_own(turn: Turn) -> bool:
    """Whether it is of the model, and has tokens."""
    return turn.kind == "model" and turn.end > turn.start


def turns_to_plain(turns: Sequence[Turn]) -> dict[str, Any]:
    """What a sample's record has more than that of a single turn: nothing, or `turns`."""
    return {"turns": [asdict(turn) for turn in turns]} if turns else {}


def turns_from_plain(record: Mapping[str, Any]) -> dict[str, tuple[Turn, ...]]:
    """A sample's turns, as the field that they are, from a record that may have none."""
    turns: Iterable[dict[str, Any]] = record.get("turns", ())
    return {"turns": tuple(Turn(**turn) for turn in turns)}


def earned(turns: Sequence[Turn]) -> float:
    """What an episode in an environment has earned: its turns together, of the first one's role."""
    own = [turn for turn in turns if is_own(turn)]
    return math.fsum(turn.reward or 0.0 for turn in own if turn.role == own[0].role)


class Response(NamedTuple):
    """A response as its turns: one after another, or none where it is a single one."""

    num_tokens: int
    turns: Sequence[Turn]

    @property
    def own(self) -> list[Turn]:
        """Those of the model that have tokens."""
        return [turn for turn in self.turns if is_own(turn)]

    @property
    def anchors(self) -> list[str]:
        """The state that each turn of the model was written in; "" is that of the prompt."""
        anchors, put_in = [], ""
        for turn in self.turns:
            if is_own(turn):
                anchors.append(turn.anchor or put_in)
            put_in = "" if is_own(turn) else put_in + turn.text
        return anchors

    @property
    def failed_calls(self) -> list[int]:
        """Calls of each turn of the model that were made, and did not do what they were to do."""
        failed: list[int] = []
        num_made = 0
        for turn in self.turns:
            if is_own(turn):
                failed.append(0)
                num_made = turn.num_calls
            elif turn.kind == "observation" and failed:
                failed[-1] = max(0, num_made - turn.num_ok)
        return failed

    @property
    def rewards(self) -> list[float]:
        """What each turn of the model has earned beside the sample's reward, which its last earns.

        Where that is their sum, the last one's is less the sum, so that nothing counts twice.
        """
        rewards = [turn.reward or 0.0 for turn in self.own]
        if self.own and self.own[-1].taken_as == "action":
            rewards[-1] -= earned(self.turns)
        return rewards

    def of_tokens[T](self, values: Sequence[T], nothing: T) -> list[T]:
        """What is said of each turn of the model, said of its tokens, and of those that answer it.

        What stands before the first is of it.

        Args:
            nothing: of a response without turns.
        """
        of_tokens = [values[0] if values else nothing] * self.num_tokens
        for turn, value in zip(self.own, values, strict=True):
            of_tokens[turn.start :] = [value] * (self.num_tokens - turn.start)
        return of_tokens


def turn_columns(responses: Sequence[Response]) -> dict[str, Tensor]:
    """What a batch says of turns (`RolloutBatch`), `[R]` each; of what no turn says, nothing."""
    turns = [turn for response in responses for turn in response.own]
    columns: dict[str, Tensor] = {}
    if turns:
        numbers = [r.of_tokens(range(len(r.own)), 0) for r in responses]
        columns["turns"] = torch.tensor([number for row in numbers for number in row])
        anchors = [r.of_tokens(r.anchors, "") for r in responses]
        columns["anchors"] = numbered([anchor for row in anchors for anchor in row])
        failed = [r.of_tokens(r.failed_calls, 0) for r in responses]
        columns["failed_calls"] = torch.tensor([count for row in failed for count in row])
    if any(turn.reward is not None for turn in turns):
        rewards = [r.of_tokens(r.rewards, 0.0) for r in responses]
        columns["turn_rewards"] = torch.tensor([reward for row in rewards for reward in row])
    if any(turn.role for turn in turns):
        roles = [r.of_tokens([turn.role for turn in r.own], "") for r in responses]
        columns["roles"] = numbered([role for row in roles for role in row])
    return columns


def numbered(values: Sequence[Hashable]) -> Tensor:
    """Numbers of values, equal where they are, from 0 in the order they come; int64 `[n]`."""
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(value, len(numbers)) for value in values])
