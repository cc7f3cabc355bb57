"""IPO: log-ratios of pairs are pulled to a distance, and not further."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.hooks import Step
from megatron_stare.algorithms.links.pairs import Pairs
from megatron_stare.algorithms.needs import OLD, REFERENCE


class Ipo(Pairs):
    """((r_better - r_worse - 1/2) / beta)^2, r = beta times the mean of log(policy / reference).

    The paper's (h - 1 / (2 beta))^2 of log-ratios h. These are means over tokens and not sums, as
    in TRL, by whose account the paper's authors have confirmed that.

    Source: IPO, arXiv 2310.12036
    Status: paper
    """

    needs = frozenset({OLD, REFERENCE})
    is_mean = True

    beta: Annotated[float, Field(ge=1e-4, le=1_000_000)] = 0.1
    """How much the reference holds: log-ratios are pulled 1 / (2 beta) nats a token apart."""

    def evidence(self, step: Step) -> Tensor:
        """The log-ratio of each token, nats."""
        return step[OLD].logprobs - step[REFERENCE].logprobs

    def losses(self, margins: Tensor) -> Tensor:
        """Of pairs whose rewards are so far apart, `[P]`."""
        return ((margins - 0.5) / self.beta).square()
