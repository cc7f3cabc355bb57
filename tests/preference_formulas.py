"""Losses of pairs as TRL and their authors write them: of whole responses, for autograd.

They share no code with the links: no advantages, no groups, no batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class Pair:
    """Log-probs of the tokens that count, of both responses, by policy and reference."""

    chosen: Tensor
    rejected: Tensor
    chosen_reference: Tensor
    rejected_reference: Tensor

    @property
    def ratios(self) -> tuple[Tensor, Tensor]:
        """log(policy / reference) of both responses."""
        return (
            self.chosen.sum() - self.chosen_reference.sum(),
            self.rejected.sum() - self.rejected_reference.sum(),
        )


def dpo(pair: Pair, beta: float = 0.1, smoothing: float = 0.0) -> Tensor:
    """With smoothing, conservative DPO."""
    chosen, rejected = pair.ratios
    h = beta * (chosen - rejected)
    return -(1 - smoothing) * logsigmoid(h) - smoothing * logsigmoid(-h)


def hinge(pair: Pair, beta: float = 0.1) -> Tensor:
    """SLiC's, of the same margins."""
    chosen, rejected = pair.ratios
    return torch.relu(1 - beta * (chosen - rejected))


def ipo(pair: Pair, beta: float = 0.1) -> Tensor:
    """TRL's, of means over tokens."""
    chosen, rejected = pair.ratios
    delta = chosen / len(pair.chosen) - rejected / len(pair.rejected)
    return (delta - 1 / (2 * beta)) ** 2


def simpo(
    pair: Pair, beta: float = 2.0, gamma_beta_ratio: float = 0.5, smoothing: float = 0.0
) -> Tensor:
    """The authors'."""
    logits = pair.chosen.mean() - pair.rejected.mean() - gamma_beta_ratio
    wrong = logsigmoid(-beta * logits) * smoothing
    return -logsigmoid(beta * logits) * (1 - smoothing) - wrong


def mean_of_pairs(pairs: Sequence[Pair], loss: Callable[[Pair], Tensor]) -> Tensor:
    """As trainers reduce them."""
    return torch.stack([loss(pair) for pair in pairs]).mean()


def likelihood_of_chosen(pairs: Sequence[Pair]) -> Tensor:
    """RPO's further loss as TRL has it: the mean over the tokens of all better responses."""
    return -torch.cat([pair.chosen for pair in pairs]).mean()


SECTIONS: Mapping[str, tuple[dict, Callable[[Sequence[Pair]], Tensor]]] = {
    "dpo": ({"method": "dpo"}, lambda pairs: mean_of_pairs(pairs, dpo)),
    "conservative": (
        {"method": "dpo", "dpo": {"beta": 0.5, "label_smoothing": 0.2}},
        lambda pairs: mean_of_pairs(pairs, lambda pair: dpo(pair, 0.5, 0.2)),
    ),
    "hinge": (
        {"method": "dpo", "dpo": {"loss": "hinge"}},
        lambda pairs: mean_of_pairs(pairs, hinge),
    ),
    "ipo": ({"method": "ipo"}, lambda pairs: mean_of_pairs(pairs, ipo)),
    "simpo": ({"method": "simpo"}, lambda pairs: mean_of_pairs(pairs, simpo)),
    "simpo of other settings": (
        {"method": "simpo", "simpo": {"beta": 2.5, "gamma_beta_ratio": 0.55}},
        lambda pairs: mean_of_pairs(pairs, lambda pair: simpo(pair, 2.5, 0.55)),
    ),
    "rpo": (
        {"method": "dpo", "terms": [{"positive_nll": {"coef": 0.7}}]},
        lambda pairs: mean_of_pairs(pairs, dpo) + 0.7 * likelihood_of_chosen(pairs),
    ),
}
"""By name, an `algorithm` section and the loss that it has to be."""
