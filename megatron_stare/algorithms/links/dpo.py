"""DPO: the policy's log-ratios to the reference rank pairs of samples."""

from torch import Tensor

from megatron_stare.algorithms.hooks import Step
from megatron_stare.algorithms.links.pairs import Ranked
from megatron_stare.algorithms.needs import OLD, REFERENCE
from megatron_stare.system.values import PositiveWeight


class Dpo(Ranked):
    """-log sigmoid(r_better - r_worse), r = beta log(policy / reference) of the whole sample.

    With `label_smoothing` it is conservative DPO, with `loss: hinge` SLiC's loss. The reference is
    the policy that the run has started from. RPO adds the likelihood of the better samples:
    `terms=[{positive_nll: {coef: 1}}]`.

    Source: DPO, arXiv 2305.18290
    Status: checked against authors' code
    """

    needs = frozenset({OLD, REFERENCE})

    beta: PositiveWeight = 0.1
    """How much the reference holds: the smaller, the further the policy may go."""

    def evidence(self, step: Step) -> Tensor:
        """The log-ratio of each token, nats."""
        return step[OLD].logprobs - step[REFERENCE].logprobs
