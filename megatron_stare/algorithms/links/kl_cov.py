"""The few tokens whose likelihood and advantage go together most."""

from __future__ import annotations

from megatron_stare.algorithms.hooks import Credit, Link, Mark, Step
from megatron_stare.algorithms.links.clip_cov import covariances
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import Share

KL_COV = Mark("kl_cov")
"""1 on the tokens of large covariance."""


class KlCov(Link[None]):
    """Marks the share of tokens with the largest cov = (A - mean A) (lp - mean lp).

    lp is the log-prob, in nats, before the step; means are the batch's. The share is rounded down,
    to at least one token; it is the authors' of 7B models, 2e-4 that of 32B. In their code lp is of
    the policy that learns, and all is of a micro-batch.

    Source: The Entropy Mechanism, arXiv 2505.22617
    Status: checked against authors' code
    """

    needs = frozenset({OLD})
    marks = frozenset({KL_COV})

    share: Share = 2e-3
    """How many are marked, of all counted tokens."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Leave the marks."""
        covariance, counted = covariances(credit, step), credit.counted
        marked = step.stats.top_share(covariance, self.share, counted, round_up=False)
        step.facts[KL_COV] = marked.to(credit.weights.dtype)
        return credit
