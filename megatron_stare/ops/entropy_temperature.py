"""A temperature for each token that is sampled, by how uncertain the policy is of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class EntropyTemperature:
    """Temperature * (1 + tau h), h where the logarithm of a token's entropy stands among others.

    h = (ln H - pivot) / above where that is positive, else / below, within [-1, 1]. H is the
    entropy at the temperature itself, in nats, at least 1e-8.

    The source of this class is also sent to servers (`engines/sglang/tempering.py`): it needs
    nothing but its imports.

    Args:
        above, below: distances of ln H from the pivot; with a negative one, h changes its sign.
        tau: how much the temperature moves where |h| is 1, below 1.
    """

    pivot: float = 0.0
    above: float = 1.0
    below: float = 1.0
    tau: float = 0.0

    def places(self, entropies: Tensor) -> Tensor:
        """h of each token, `[n]`, as its entropy."""
        apart = entropies.clamp(min=1e-8).log() - self.pivot
        return (apart / self.above).where(apart > 0, apart / self.below).clamp(-1, 1)

    def factors(self, logprobs: Tensor) -> Tensor:
        """What the temperature of each token is times, `[n]`.

        Args:
            logprobs: float `[n, V]`, at the temperature itself.
        """
        entropies = -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(-1)
        return 1 + self.tau * self.places(entropies)
