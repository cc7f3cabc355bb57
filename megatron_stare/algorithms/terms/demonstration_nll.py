"""The likelihood of demonstrations, beside what is learned from samples."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from megatron_stare.algorithms.aggregation import Aggregation
from megatron_stare.algorithms.hooks import Credit, Step
from megatron_stare.algorithms.needs import DEMONSTRATED
from megatron_stare.algorithms.terms.nll import Nll


class DemonstrationNll(Nll):
    """-coef * logprob, its mean over the tokens of demonstrations, with its own denominator.

    Without demonstrations in an update the term is 0.

    Source: HPT, arXiv 2509.04419
    Status: checked against authors' code
    """

    needs = frozenset({DEMONSTRATED})
    has_own_mean: ClassVar[bool] = True
    aggregation: ClassVar[Aggregation | None] = "token-mean"

    def counted(self, credit: Credit, step: Step) -> Tensor:
        """What the policy has not written."""
        return step[DEMONSTRATED]
