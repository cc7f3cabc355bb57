"""No gradient from a few tokens whose likelihood and advantage go together."""

from __future__ import annotations

from pydantic import Field, model_validator
from torch import Tensor

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import Share


class ClipCov(Link[None]):
    """weight * 0 on a few random tokens of low < cov < high, cov = (A - mean A) (lp - mean lp).

    lp is the log-prob, in nats, before the step; means are the batch's. As many are drawn as the
    share of all tokens says, at least one; they stay in the denominators. In the authors' code lp
    is of the policy that learns, all is of a micro-batch, and tokens that PPO clips are no
    candidates.

    Source: The Entropy Mechanism, arXiv 2505.22617
    Status: checked against authors' code
    """

    needs = frozenset({OLD})

    share: Share = 2e-4
    """How many are drawn, of all counted tokens."""
    low: float = Field(default=1.0, ge=-1e6, le=1e6)
    """Candidates' covariance is above it."""
    high: float = Field(default=5.0, ge=-1e6, le=1e6)
    """Candidates' covariance is below it."""

    @model_validator(mode="after")
    def _is_ordered(self) -> ClipCov:
        if self.low >= self.high:
            raise ValueError(f"low={self.low}: expected less than high={self.high}")
        return self

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Silence what is drawn."""
        stats, counted, covariance = step.stats, credit.counted, covariances(credit, step)
        candidates = counted & (covariance > self.low) & (covariance < self.high)
        number = (self.share * stats.count(counted)).long().clamp(min=1)
        number = number.minimum(stats.count(candidates).long())
        return credit.scaled(0.0, stats.top(step.uniform("clip_cov"), number, candidates))


def covariances(credit: Credit, step: Step) -> Tensor:
    """(A - mean A) (lp - mean lp) of each token, float64 `[r]`; means are of what is counted."""
    factors = (credit.advantages, step[OLD].logprobs)
    first, second = (part - step.stats.mean(part, credit.counted) for part in factors)
    return first * second
