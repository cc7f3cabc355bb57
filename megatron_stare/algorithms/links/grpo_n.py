"""GRPO-N and its kin: negative advantages alone."""

from typing import Literal

from megatron_stare.algorithms.hooks import Credit, Link, Step


class GrpoN(Link[None]):
    """A where A < 0, else 0: what is better than its group is not learned from.

    It stands behind a baseline: behind `grpo` it is GRPO-N, before a sequence ratio GSPO-N.

    Source: the capability-boundary debate, arXiv 2510.04028
    Status: derived
    """

    scope = "sample"

    denominator: Literal["all", "kept"]
    """Whether the loss's mean is over all tokens or those that are kept: not known of the paper."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Drop advantages that are not negative."""
        kept = credit.with_advantages(credit.advantages.clamp(max=0.0))
        if self.denominator == "all":
            return kept
        return kept._replace(counted=kept.counted & (kept.advantages < 0))
