"""The items of one call of the pool, and what has become of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from megatron_stare.rewards.process import Item, Sent
from megatron_stare.rewards.verdict import Verdict

_MAX_CHUNK_CHARACTERS = 1 << 20


@dataclass(slots=True)
class Batch:
    """Items by their places, and the verdicts so far.

    waiting   not sent to a worker
    suspects  the same, each to be sent alone to a fresh process: what happened to it in another may
              have been another's doing, or the machine's
    retried   what has been a suspect
    """

    items: Sequence[Item]
    waiting: deque[int] = field(init=False)
    verdicts: list[Verdict | None] = field(init=False)
    suspects: deque[int] = field(default_factory=deque)
    retried: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.waiting = deque(range(len(self.items)))
        self.verdicts = [None] * len(self.items)

    @property
    def num_unsent(self) -> int:
        """Items that no worker has."""
        return len(self.waiting) + len(self.suspects)

    def take_chunk(self, max_items: int) -> list[int]:
        """Places of the next items, at least one, with so much text that a process soon has it."""
        chunk, size = [self.waiting.popleft()], 0
        while self.waiting and len(chunk) < max_items and size < _MAX_CHUNK_CHARACTERS:
            size += sum(map(len, self.items[chunk[-1]]))
            chunk.append(self.waiting.popleft())
        return chunk

    def take_back(self, sent: Iterable[Sent]) -> None:
        """Have what was sent to a worker wait again, before the others."""
        self.waiting.extendleft(reversed([one.place for one in sent]))

    def end(self, place: int, verdict: Verdict, *, is_doubtful: bool) -> None:
        """Take a verdict; where it may be no doing of the item, only after another try."""
        if is_doubtful and place not in self.retried:
            self.suspects.append(place)
            self.retried.add(place)
        else:
            self.verdicts[place] = verdict

    def lose(self, places: deque[int], failure: str) -> None:
        """End what can be sent to nobody."""
        while places:
            self.verdicts[places.popleft()] = Verdict(0.0, False, failure, 0.0, "lost")
