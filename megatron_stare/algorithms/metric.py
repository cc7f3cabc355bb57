"""What a number is that a run logs, and how people are shown it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that a run logs.

    unit         nats, tokens, seconds, share (a part of one), count, tokens/s; 1: a plain number
    description  one sentence
    title        of its panel in a report's figure of its group; of parts of methods alone
    window       steps that the panel draws the mean of
    target_of    the metric that it is a target of: a band around its curves, and beside its number
    switch_of    the metric beside whose number it says whether something is on
    """

    unit: str
    description: str
    title: str = ""
    window: int = 1
    target_of: str = ""
    switch_of: str = ""
