"""A policy gradient of demonstrations: as of right samples, and more where they are unlikely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.hooks import Credit, Live, Step, Term
from megatron_stare.algorithms.needs import GUIDED


class GuideGradient(Term[Tensor]):
    """-p / (p + shape) on the tokens of guides, p the policy's probability; 0 on others.

    A guide is a demonstration that `fall_back` has put in the place of a group between its gates,
    with advantage 1. The mean is over these tokens and all that the credit counts. The authors'
    code counts there those of other demonstrations, too.

    Source: HPT, arXiv 2509.04419
    Status: checked against authors' code
    """

    needs = frozenset({GUIDED})
    has_own_mean: ClassVar[bool] = True

    shape: float = Field(default=0.1, gt=0, le=1_000_000)
    """Where the loss is half its largest, and its gradient the largest."""

    def counted(self, credit: Credit, step: Step) -> Tensor:
        """Tokens of guides and of samples."""
        return credit.counted | step[GUIDED]

    def prepare(self, step: Step) -> Tensor:
        """Which are of guides."""
        return step[GUIDED]

    def loss(self, live: Live, fields: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """The loss of each token."""
        probs = live.logprobs.clamp(max=0).exp()
        return -(probs / (probs + self.shape)) * fields, ()
