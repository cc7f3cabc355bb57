"""From prompts to groups: generate, collect by prompt, score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megatron_stare.config import SamplingConfig
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.rollout.engine import Engine
from megatron_stare.types import Group, Prompt, Sample


@dataclass(frozen=True, slots=True)
class Answers:
    """What became of the prompts given to an engine: each is in one list, in the order given."""

    groups: list[Group]
    failed: list[Prompt]
    aborted: list[Prompt]


def generate_groups(
    engine: Engine,
    scorer: Scorer,
    prompts: Sequence[Prompt],
    num_samples: int,
    sampling: SamplingConfig,
    *,
    seed: int,
    on_progress: Callable[[int], None] | None = None,
) -> Answers:
    """Ask an engine for `num_samples` samples of each prompt, and score those of full groups.

    A prompt with an aborted sample is aborted, one with a missing sample failed.

    Args:
        on_progress: called with 1 for every sample that arrives.

    Raises:
        RuntimeError: a sample came twice, or was not asked for.
    """
    samples: dict[str, dict[int, Sample]] = {prompt.uid: {} for prompt in prompts}
    for sample in engine.generate(prompts, num_samples, sampling, seed=seed):
        siblings = samples.get(sample.prompt.uid)
        if siblings is None or sample.index in siblings or sample.index not in range(num_samples):
            raise RuntimeError(
                f"the engine gave sample {sample.index} of prompt {sample.prompt.uid} "
                "twice, or unasked"
            )
        siblings[sample.index] = sample
        if on_progress is not None:
            on_progress(1)

    answered, failed, aborted = [], [], []
    for prompt in prompts:
        siblings = samples[prompt.uid]
        if any(sample.finish_reason == "aborted" for sample in siblings.values()):
            aborted.append(prompt)
        elif len(siblings) < num_samples:
            failed.append(prompt)
        else:
            answered.append(tuple(siblings[index] for index in range(num_samples)))
    return Answers(_score(scorer, answered), failed, aborted)


def _score(scorer: Scorer, answered: Sequence[tuple[Sample, ...]]) -> list[Group]:
    rewards = iter(scorer.score([sample for samples in answered for sample in samples]))
    return [
        Group(samples[0].prompt, samples, tuple(next(rewards) for _ in samples))
        for samples in answered
    ]
