"""Faults in what a method decides of a step: each has to turn the comparison of layouts red.

They are planted after the step was taken, so that they cost no pass: its scores are known, and the
chain decides a second time. Links that waited for a micro-batch decide here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from megatron_stare.algorithms.chain import Chain
from megatron_stare.algorithms.hooks import Mark, Step
from megatron_stare.algorithms.method import Method
from tests.reference_parts import by_name, decided, with_late_links


class Faulty(NamedTuple):
    """What came of a fault on a rank: credit `[r]` by name, and the report."""

    credit: dict[str, Tensor]
    report: Mapping[str, float]


def statistic_per_rank(method: Method, step: Step) -> Faulty:
    """What is meant of the batch is taken of a rank's own part."""
    return _decided(method, replace(step, group=None))


def last_link_left_out(method: Method, step: Step) -> Faulty:
    """The chain ends before its last link."""
    *names, _ = method.links
    rest = {name: method.links[name] for name in names}
    return _decided(method.model_copy(update={"links": rest}), step)


def _decided(method: Method, step: Step) -> Faulty:
    measured = {need: value for need, value in step.facts.items() if not isinstance(need, Mark)}
    again = replace(step, facts=measured, _known={})
    credit, report = decided(Chain(method), again)
    return Faulty(by_name(method, with_late_links(method, credit, again), again), report)


FAULTS: dict[str, Callable[[Method, Step], Faulty]] = {
    "a statistic per rank": statistic_per_rank,
    "the last link left out": last_link_left_out,
}
