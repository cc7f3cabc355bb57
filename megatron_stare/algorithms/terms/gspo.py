"""The clipped surrogate of a whole sample's ratio."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.hooks import Live
from megatron_stare.algorithms.losses import clipped_sides, clipped_surrogate, importance_ratios
from megatron_stare.algorithms.per_sample import sample_mean
from megatron_stare.algorithms.terms.clipped import Clipped
from megatron_stare.system.values import Weight


class Gspo(Clipped):
    """weight * max(-A s, -A clip(s, 1 - low, 1 + high)), s = exp(mean of logprob - old).

    The mean is over the counted tokens of a sample, all of which share s and its gradient: what
    links weigh by token, it averages. The authors' code (verl) bounds the mean above at 10 nats;
    here it is held within 20.

    Source: GSPO, arXiv 2507.18071
    Status: checked against authors' code
    """

    low: float = Field(default=3e-4, ge=0, le=1)
    """The sample's ratio is clipped below at 1 - low."""
    high: Weight = 4e-4
    """The sample's ratio is clipped above at 1 + high."""

    def ratios(self, live: Live) -> Tensor:
        """That of its sample, for each token."""
        log_ratios = live.logprobs - live.old_logprobs
        mean = sample_mean(log_ratios, live.sample_ids, live.credit.counted)
        return importance_ratios(mean).to(log_ratios.dtype)

    def loss(self, live: Live, fields: None) -> tuple[Tensor, Sequence[Tensor]]:
        """The loss of each token, and which of them each bound holds back."""
        ratios, credit = self.ratios(live), live.credit
        rest = (credit.advantages, credit.clip_low, credit.clip_high)
        loss = credit.weights * clipped_surrogate(ratios, *rest)
        return loss, clipped_sides(ratios.detach(), *rest)


class GspoToken(Gspo):
    """weight * max(-A s, -A clip(s, 1 - low, 1 + high)), s the sample's ratio, A the token's.

    s has the value of GSPO's and the gradient of the token's own log-prob, s grad logprob: tokens
    of one sample may differ in A and weight. Where they do not, it is GSPO.

    Source: GSPO, arXiv 2507.18071, section 4.3
    Status: checked against authors' code
    """

    def ratios(self, live: Live) -> Tensor:
        """That of its sample, with the gradient of the token."""
        unit = (live.logprobs - live.logprobs.detach()).exp()
        return super().ratios(live).detach() * unit
