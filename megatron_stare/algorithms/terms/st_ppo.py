"""The clipped surrogate of a turn's ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.hooks import Live, Step
from megatron_stare.algorithms.needs import TURNS
from megatron_stare.algorithms.terms.gspo import Gspo
from megatron_stare.system.values import Weight


class StPpo(Gspo):
    """weight * max(-A s, -A clip(s, 1 - low, 1 + high)), s = exp(mean of logprob - old in a turn).

    What counts of a turn shares s and its gradient: GSPO with turns for samples. The paper's second
    part, which divides by the norm of the gradient that clipping takes away, is not here: how it is
    measured, no source says.

    Source: ST-PPO's Turn-PPO, arXiv 2511.20718
    Status: paper
    """

    needs = frozenset({TURNS})

    low: float = Field(default=0.2, ge=0, le=1)
    """The turn's ratio is clipped below at 1 - low."""
    high: Weight = 0.2
    """The turn's ratio is clipped above at 1 + high."""

    def prepare(self, step: Step) -> Any:
        """The turn of each token, int64 `[r]`."""
        turns = step[TURNS]
        numbers = turns.of_tokens(torch.arange(len(turns.samples)))
        return numbers[step.index].to(step.mask.device)

    def loss(self, live: Live, fields: Any) -> tuple[Tensor, Sequence[Tensor]]:
        """GSPO's, with turns in the place of samples."""
        return super().loss(live._replace(sample_ids=fields), None)
