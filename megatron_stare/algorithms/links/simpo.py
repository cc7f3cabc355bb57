"""SimPO: mean log-probs rank pairs of samples, by a margin and without a reference."""

from torch import Tensor

from megatron_stare.algorithms.hooks import Step
from megatron_stare.algorithms.links.pairs import Ranked
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import PositiveWeight, Weight


class Simpo(Ranked):
    """-log sigmoid(r_better - r_worse - gamma), r = beta times the sample's mean log-prob.

    gamma = beta * gamma_beta_ratio, a margin that the better one has to lead by. There is no
    reference, and so no pass of one.

    Source: SimPO, arXiv 2405.14734
    Status: checked against authors' code
    """

    is_mean = True

    beta: PositiveWeight = 2.0
    """What scales mean log-probs; the authors' runs have 2 to 10."""
    gamma_beta_ratio: Weight = 0.5
    """The margin in nats a token; the authors' runs have 0.3 to 0.8."""

    @property
    def target(self) -> float:
        """gamma."""
        return self.beta * self.gamma_beta_ratio

    def evidence(self, step: Step) -> Tensor:
        """The log-prob of each token, nats."""
        return step[OLD].logprobs
