"""Problems that are seldom solved, asked again with a past error to reflect on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from pydantic import Field, field_validator

from megatron_stare.algorithms.hooks import Curriculum
from megatron_stare.system.values import Share
from megatron_stare.types import Group


@dataclass(frozen=True, slots=True)
class History:
    """Of the problems that were asked: how often, their mean verdict, and an error, or nothing."""

    of: dict[int, tuple[int, float, str]]


class Reflection(Curriculum[History]):
    """Epoch after epoch; where the mean verdict so far is below `threshold`, with a past error.

    The error is the first wrong response of the last time, which is one at random: the samples of a
    group are alike. The instruction, with it, stands behind the problem, in the user's turn of a
    chat. A prompt that would be longer than data.max_prompt_tokens is asked as it is. Threshold and
    instruction of the paper are not public.

    Source: R3 (in-context self-reflection), arXiv 2601.19620
    Status: paper
    """

    threshold: Share
    """Mean verdict below which a problem is asked with an error."""
    instruction: str = Field(max_length=10_000)
    """What stands behind the problem, with a place for the error: `\\n\\nThis answer is wrong:
    {error}\\n\\nFind the mistake, and answer again.`"""

    @field_validator("instruction")
    @classmethod
    def _has_a_place(cls, instruction: str) -> str:
        if "{error}" not in instruction:
            raise ValueError(f"{instruction!r:.80}: expected a text with {{error}}")
        return instruction

    def start(self) -> History:
        """Nothing was asked."""
        return History({})

    def draw(
        self, count: int, problems: Sequence[int], state: History, random: Random
    ) -> Sequence[int]:
        """Those asked the fewest times, at random."""
        shuffled = random.sample(problems, len(problems))
        return sorted(shuffled, key=lambda problem: state.of.get(problem, (0,))[0])[:count]

    def appended(self, problem: int, state: History) -> str:
        """The instruction, with the error."""
        *_, error = state.of.get(problem, ("",))
        return self.instruction.replace("{error}", error) if error else ""

    def observe(self, asked: Sequence[tuple[int, Group]], state: History) -> History:
        """Count the verdicts of a step, and keep an error where they are too low."""
        of = dict(state.of)
        for problem, group in asked:
            verdicts = [reward.correct for reward in group.judged.rewards]
            if verdicts:
                times, mean, error = of.get(problem, (0, 0.0, ""))
                mean += (sum(verdicts) / len(verdicts) - mean) / (times + 1)
                texts = (sample.text.strip() for sample in group.judged.samples)
                wrong = [text for text, v in zip(texts, verdicts, strict=True) if v == 0 and text]
                error = wrong[0] if wrong else error
                of[problem] = (times + 1, mean, error if mean < self.threshold else "")
        return History(of)
