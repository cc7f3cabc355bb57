"""How every prompt of a step ended: the books that show that none was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal, get_args

from megatron_stare.types import FinishReason, Prompt, Sample

Ending = Literal["completed", "filtered", "failed", "aborted", "carried"]
"""completed: its group is in the batch; filtered: its group was dropped; failed: the engine did not
answer in full; aborted: its generation was stopped; carried: it goes on in the next step."""


class Ledger:
    """One ending for every prompt drawn, by uid.

    ledger.draw(prompts)            they wait for an ending
    ledger.end(prompts, "failed")   each exactly once
    ledger.close()                  counts by ending; they add up to the prompts drawn
    """

    def __init__(self) -> None:
        self._endings: dict[str, Ending | None] = {}

    def __len__(self) -> int:
        """Prompts drawn."""
        return len(self._endings)

    def __iter__(self) -> Iterator[str]:
        """Uids, in the order they were drawn."""
        return iter(self._endings)

    def draw(self, prompts: Iterable[Prompt]) -> None:
        """Enter prompts; RuntimeError where a uid was drawn before."""
        for prompt in prompts:
            if prompt.uid in self._endings:
                raise RuntimeError(f"prompt {prompt.uid} was drawn twice in a step")
            self._endings[prompt.uid] = None

    def end(self, prompts: Iterable[Prompt], ending: Ending) -> None:
        """Say how prompts ended; RuntimeError where one was not drawn, or has ended before."""
        for prompt in prompts:
            if self._endings.get(prompt.uid, "never drawn") is not None:
                raise RuntimeError(
                    f"prompt {prompt.uid} cannot end as {ending}: it is "
                    f"{self._endings.get(prompt.uid, 'not in the books')}"
                )
            self._endings[prompt.uid] = ending

    def close(self) -> dict[Ending, int]:
        """Prompts by ending; RuntimeError naming prompts that have none."""
        if lost := [uid for uid, ending in self._endings.items() if ending is None]:
            raise RuntimeError(f"{len(lost)} prompts have no ending: {', '.join(lost[:5])}")
        counts = Counter(self._endings.values())
        return {ending: counts[ending] for ending in get_args(Ending)}


def endings_of(samples: Iterable[Sample]) -> dict[FinishReason, int]:
    """Samples by how they ended; RuntimeError naming one that has not."""
    counts: Counter[FinishReason] = Counter()
    for sample in samples:
        if sample.finish_reason == "aborted":
            raise RuntimeError(f"sample {sample.index} of prompt {sample.prompt.uid} has no ending")
        counts[sample.finish_reason] += 1
    return {reason: counts[reason] for reason in get_args(FinishReason) if reason != "aborted"}
