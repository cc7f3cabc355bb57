"""Lp-Reg: which rare tokens of bad samples are to be spared, and what they are drawn to."""

from __future__ import annotations

import torch
from pydantic import Field

from megatron_stare.algorithms.hooks import Credit, Link, Mark, Need, Step
from megatron_stare.algorithms.needs import OLD, MinPLogprobs
from megatron_stare.ops.min_p import REMOVED
from megatron_stare.system.values import Share

PROXY = Mark("proxy_logprob")
"""The log-prob that a token is drawn to, nats; `REMOVED` of one that is not to be spared."""


class LpReg(Link[None]):
    """Marks the share of the tokens with A < 0 of the lowest log-prob by their proxy's, ln p'.

    p' = p before the step without tokens of p < kappa max p, over what is left. The share is
    rounded down, and none is marked if that leaves fewer than two; lowest before the step in the
    batch, in the authors' code of the policy that learns in a micro-batch.

    Source: Lp-Reg, arXiv 2510.03222
    Status: checked against authors' code
    """

    marks = frozenset({PROXY})

    share: Share = 0.01
    """How many are marked, of the counted tokens with A < 0."""
    kappa: float = Field(default=0.02, ge=1e-6, le=0.9)
    """How likely a token of the proxy is at least, as a share of the likeliest."""

    @property
    def needs(self) -> frozenset[Need]:
        """The proxy's log-probs, and those before the step."""
        return frozenset({OLD, MinPLogprobs(kappa=self.kappa)})

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Leave the marks."""
        is_bad = credit.counted & (credit.advantages < 0)
        number = (self.share * step.stats.count(is_bad)).long()
        surprisals = -step[OLD].logprobs.nan_to_num()
        lowest = step.stats.top(surprisals, number.where(number > 1, 0), is_bad)
        proxies = step[MinPLogprobs(kappa=self.kappa)].to(credit.weights.dtype)
        step.facts[PROXY] = torch.where(lowest, proxies.nan_to_num(REMOVED), REMOVED)
        return credit
