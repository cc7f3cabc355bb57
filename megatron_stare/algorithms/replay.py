"""Past samples of a prompt, in a group that has nothing to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from megatron_stare.algorithms.hooks import Filter
from megatron_stare.system.values import Count
from megatron_stare.turns import turns_from_plain, turns_to_plain
from megatron_stare.types import Group, Reward, Sample

Past = Mapping[str, Any]
"""A sample without its prompt, and its reward, as plain values."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Past samples by the text of their prompt, oldest first; at the end what was judged last."""

    of: Mapping[str, Sequence[Past]]


class Replay(Filter[Memory]):
    """A group all wrong gains its prompt's last `count` right samples; one all right, wrong ones.

    They are trained on as they were sampled, with the log-probs of then: a correction in the chain
    weighs them by policy / engine, `tis` unless another is there. A sample comes back to the very
    context that it was sampled in, so that these log-probs hold; problems with a reflection behind
    them are left alone. The paper's k is not public.

    Source: R3 (cross-context replay), arXiv 2601.19620
    Status: paper
    """

    replays: ClassVar[bool] = True

    count: Count
    """Samples that are added; of each prompt so many right and so many wrong ones are kept."""
    capacity: Count = 1_000_000
    """Response tokens that are kept: of the prompts judged longest ago all are given up first."""

    def start(self) -> Memory:
        """Nothing has been."""
        return Memory({})

    def recall(self, group: Group, state: Memory) -> Group | None:
        """The group, with past samples where all verdicts are 0, or all are 1."""
        verdicts = {reward.correct for reward in group.judged.rewards}
        if verdicts not in ({0.0}, {1.0}):
            return group
        past = state.of.get(group.prompt.text, ())
        others = [each for each in past if each["reward"]["correct"] not in verdicts]
        size = len(group.samples)
        samples = [
            Sample(
                group.prompt,
                size + i,
                **{**each["sample"], **turns_from_plain(each["sample"])},
                origin="replay",
            )
            for i, each in enumerate(others)
        ]
        rewards = [Reward(**each["reward"]) for each in others]
        return Group(group.prompt, (*group.samples, *samples), (*group.rewards, *rewards))

    def observe(self, judged: Sequence[Group], state: Memory) -> Memory:
        """Keep the last samples of each prompt, of all prompts no more than there is room for."""
        of = dict(state.of)
        for group in judged:
            if not group.prompt.appended:
                past = [*of.pop(group.prompt.text, ()), *_past(group.judged)]
                of[group.prompt.text] = self._last(past, 1.0) + self._last(past, 0.0)
        num_tokens = sum(map(_num_tokens, of.values()))
        for text in list(of):
            if num_tokens <= self.capacity:
                break
            num_tokens -= _num_tokens(of.pop(text))
        return Memory(of)

    def _last(self, past: Sequence[Past], correct: float) -> list[Past]:
        return [each for each in past if each["reward"]["correct"] == correct][-self.count :]


def _past(group: Group) -> list[Past]:
    names = {field.name for field in fields(Sample)} - {"prompt", "index", "origin", "turns"}
    return [
        {
            "sample": {name: getattr(sample, name) for name in sorted(names)}
            | turns_to_plain(sample.turns),
            "reward": {field.name: getattr(reward, field.name) for field in fields(Reward)},
        }
        for sample, reward in zip(group.samples, group.rewards, strict=True)
    ]


def _num_tokens(past: Sequence[Past]) -> int:
    return sum(len(each["sample"]["token_ids"]) for each in past)
