"""SimpleTIR's filters of groups."""

from __future__ import annotations

from pydantic import Field, model_validator

from megatron_stare.algorithms.filters import has_signal
from megatron_stare.algorithms.hooks import Filter
from megatron_stare.system.values import Count
from megatron_stare.types import Group


class AccuracyBand(Filter):
    """Keeps a group whose verdicts differ, with low <= their mean <= high.

    A group of one is kept, too. The code asks it of rewards, which are 0 and 1 there.

    Source: SimpleTIR, arXiv 2509.02479
    Status: checked against authors' code
    """

    low: float = Field(default=0.1, ge=0, le=1)
    """Lowest mean verdict."""
    high: float = Field(default=0.9, ge=0, le=1)
    """Highest mean verdict."""

    @model_validator(mode="after")
    def _is_a_band(self) -> AccuracyBand:
        if self.low > self.high:
            raise ValueError(f"low={self.low:g} is above high={self.high:g}, expected it below")
        return self

    def filter(self, group: Group) -> Group | None:
        """The group as it is, or None."""
        verdicts = [reward.correct for reward in group.judged.rewards]
        mean = sum(verdicts) / max(1, len(verdicts))
        is_inside = len(verdicts) == 1 or self.low <= mean <= self.high
        return group if is_inside and has_signal(verdicts) else None


class Finished(Filter):
    """Keeps a group of which at least `least` samples ended before the limit of tokens.

    Of a smaller group all have to have. Those that did not are kept with it, and learned from.

    Source: SimpleTIR's remove_clip, arXiv 2509.02479
    Status: checked against authors' code
    """

    least: Count = 4
    """Samples that have to have ended: min_n of the code."""

    def filter(self, group: Group) -> Group | None:
        """The group as it is, or None."""
        samples = group.judged.samples
        num_finished = sum(sample.finish_reason != "length" for sample in samples)
        return group if 0 < min(self.least, len(samples)) <= num_finished else None
