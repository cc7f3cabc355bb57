"""From prompts to groups: samples are collected by prompt, and whole groups are scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.engine import Engine, Request
from megatron_stare.ops.entropy_temperature import EntropyTemperature
from megatron_stare.types import Group, Prompt, Reward, Sample


class Judge(Protocol):
    """Gives samples their rewards."""

    def score(self, samples: Sequence[Sample]) -> list[Reward]:
        """The reward of every sample, in their order."""
        ...


@dataclass(slots=True)
class GrowingGroup:
    """A prompt and its samples so far, by index, of the `size` it is to have.

    Those that are judged have their rewards in `rewards`.
    """

    prompt: Prompt
    size: int
    samples: dict[int, Sample] = field(default_factory=dict)
    rewards: dict[int, Reward] = field(default_factory=dict)

    @classmethod
    def beyond(cls, group: Group) -> GrowingGroup:
        """A judged group that is to have one sample more."""
        size = len(group.samples)
        return cls(
            group.prompt,
            size + 1,
            dict(enumerate(group.samples)),
            dict(enumerate(group.rewards)),
        )

    def as_judged(self) -> Group:
        """Its judged samples alone."""
        samples = tuple(self.samples[index] for index in self.rewards)
        return Group(self.prompt, samples, tuple(self.rewards.values()))

    @property
    def is_whole(self) -> bool:
        """Whether every sample is there and finished."""
        return len(self.samples) == self.size and not self.was_stopped

    @property
    def was_stopped(self) -> bool:
        """Whether a sample was stopped before its end."""
        return any(sample.finish_reason == "aborted" for sample in self.samples.values())

    @property
    def oldest_version(self) -> int | None:
        """Of the weights that any of its tokens was sampled under; None without tokens."""
        return min(set().union(*(s.versions for s in self.samples.values())), default=None)

    def requests(self, rule: EntropyTemperature | None = None) -> list[Request]:
        """What it takes to make it whole; `rule` moves the temperature of tokens."""
        begun = {index: self.samples.get(index) for index in range(self.size)}
        return [
            Request(self.prompt, index, sample, rule=rule)
            for index, sample in begun.items()
            if sample is None or sample.finish_reason == "aborted"
        ]

    def take(self, sample: Sample) -> None:
        """Put a sample in its place; RuntimeError where it was not asked for, or came before."""
        before = self.samples.get(sample.index)
        is_new = before is None or before.finish_reason == "aborted"
        if sample.index not in range(self.size) or not is_new:
            raise RuntimeError(
                f"the engine gave sample {sample.index} of prompt {self.prompt.uid} "
                "twice, or unasked"
            )
        self.samples[sample.index] = sample


@dataclass(frozen=True, slots=True)
class Answers:
    """What became of the prompts given to an engine: each is in one list, in the order given."""

    groups: list[Group]
    unanswered: list[Prompt]


def generate_groups(
    engine: Engine,
    scorer: Judge,
    prompts: Sequence[Prompt],
    num_samples: int,
    sampling: SamplingConfig,
    *,
    seed: int,
    on_progress: Callable[[int], None] | None = None,
) -> Answers:
    """Ask an engine for `num_samples` samples of each prompt, and score those of full groups.

    Args:
        on_progress: called with 1 for every sample that arrives.

    Raises:
        RuntimeError: a sample came twice, or was not asked for.
    """
    growing = {prompt.uid: GrowingGroup(prompt, num_samples) for prompt in prompts}
    requests = [request for group in growing.values() for request in group.requests()]
    for sample in engine.generate(requests, sampling, seed=seed):
        growing[sample.prompt.uid].take(sample)
        if on_progress is not None:
            on_progress(1)
    return Answers(
        score_groups(scorer, [group for group in growing.values() if group.is_whole]),
        [group.prompt for group in growing.values() if not group.is_whole],
    )


def score_groups(scorer: Judge, whole: Sequence[GrowingGroup]) -> list[Group]:
    """Groups with their rewards; all samples that have none are judged together."""
    new = [[i for i in range(group.size) if i not in group.rewards] for group in whole]
    pairs = list(zip(whole, new, strict=True))
    rewards = iter(scorer.score([group.samples[i] for group, indices in pairs for i in indices]))
    for group, indices in pairs:
        group.rewards |= {i: next(rewards) for i in indices}
    return [group.as_judged() for group in whole]
