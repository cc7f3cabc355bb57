"""VAPO's likelihood of right samples, beside the surrogate."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from megatron_stare.algorithms.aggregation import Aggregation
from megatron_stare.algorithms.hooks import Credit, Step
from megatron_stare.algorithms.terms.nll import Nll
from megatron_stare.system.values import PositiveWeight


class PositiveNll(Nll):
    """-coef * logprob, its mean over the tokens of right samples: positive-example LM loss.

    A sample is right where its verdict is above 0. The mean has its own denominator; without right
    samples the term is 0.

    Source: VAPO, arXiv 2504.05118
    Status: paper
    """

    has_own_mean: ClassVar[bool] = True
    aggregation: ClassVar[Aggregation | None] = "token-mean"

    coef: PositiveWeight = 0.1
    """mu of the paper: weight of the term."""

    def counted(self, credit: Credit, step: Step) -> Tensor:
        """Tokens of right samples."""
        return step.of_samples(step.rollouts.is_right.float()) > 0
