"""Why STARE works: how one policy-gradient step on a token moves the entropy at its position.

A step on a sampled token `a` with advantage A moves the logits by `dz_k = eta A (1[k=a] - p_k)`,
and `dH/dz_k = p_k (s_k - H)` with surprisal `s = -ln p`. To first order in eta

    dH = eta A S(a),      S(a) = p_a (s_a - H) - C,      C = sum_k p_k^2 (s_k - H)

and S is positive exactly above a critical surprisal s* <= H (arXiv 2606.19236, section 3). It holds
for one softmax by itself: no clipping, no parameters shared between positions.

Of a whole run, what entropy is traded for: R = -a e^H + b (arXiv 2505.22617). Training computes
none of this; it is for analysis, and `docs/stare.md` explains it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def entropy_sensitivity(probs: Tensor) -> Tensor:
    """S of every token of a distribution, `[V]`, in nats per unit of step size and advantage.

    Its mean under the distribution is 0: an advantage that ignores the token moves no entropy.

    Args:
        probs: float `[V]`, positive, summing to 1.
    """
    surprisal = -probs.log()
    pull = probs * (surprisal - _entropy(probs))
    return pull - (probs * pull).sum()


def critical_surprisal(probs: Tensor) -> float:
    """s*, in nats: tokens above it raise entropy when reinforced, tokens below it lower it.

    It is the root in [0, H] of `e^-s (s - H) = C`, whose left side rises up to s = H + 1.
    """
    entropy = float(_entropy(probs))
    center = float((probs.square() * (-probs.log() - entropy)).sum())
    low, high = 0.0, entropy
    for _ in range(64):
        middle = (low + high) / 2
        if math.exp(-middle) * (middle - entropy) < center:
            low = middle
        else:
            high = middle
    return high


def _entropy(probs: Tensor) -> Tensor:
    return torch.special.entr(probs).sum()


NUM_BLOCKS = 10
_T_975 = 2.262157  # of NUM_BLOCKS - 1 degrees of freedom


class EntropyLaw(NamedTuple):
    """R = -a e^H + b, fitted: what a policy is right with, by what its entropy is.

    a, b      of least squares
    ceiling   b - a, R where entropy is used up
    low, high a 95% interval of the ceiling
    """

    a: float
    b: float
    ceiling: float
    low: float
    high: float

    def at(self, entropy: float) -> float:
        """R at an entropy, in nats."""
        return self.b - self.a * math.exp(entropy)


def fit_entropy_law(entropies: Sequence[float], rewards: Sequence[float]) -> EntropyLaw | None:
    """The law of a run (The Entropy Mechanism, arXiv 2505.22617, section 2).

    Steps that follow another err alike, so that the interval is not that of independent ones: it is
    of ten blocks of consecutive steps (cluster-robust errors, Student's t). None where there are
    fewer than two steps a block, or entropy never moves. It says what the run's own past predicts,
    and holds where nothing but learning moves entropy.

    Args:
        entropies: of each step in its order, nats.
        rewards: of the same steps, as a rule accuracies.
    """
    points = torch.tensor([*zip(entropies, rewards, strict=True)], dtype=torch.float64)
    points = points[points.isfinite().all(1)] if len(points) else points
    if len(points) < 2 * NUM_BLOCKS:
        return None
    x, y = torch.stack([-points[:, 0].exp(), torch.ones(len(points))], 1), points[:, 1]
    spread = x.T @ x
    if not spread.isfinite().all() or torch.linalg.cond(spread) > 1e12:
        return None
    solution = torch.linalg.solve(spread, x.T @ y)
    errors = y - x @ solution
    blocks = torch.arange(len(x)) * NUM_BLOCKS // len(x)
    scores = torch.zeros(NUM_BLOCKS, 2).double().index_add_(0, blocks, x * errors[:, None])
    at_zero = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    ceiling = float(at_zero @ solution)
    pulls = scores @ torch.linalg.solve(spread, at_zero)
    error = _T_975 * float((pulls.square().sum() * NUM_BLOCKS / (NUM_BLOCKS - 1)).sqrt())
    a, b = solution.tolist()
    return EntropyLaw(a, b, ceiling, ceiling - error, ceiling + error)
