"""What parts of methods may need to be known of a step; `observe_step` says how it is measured."""

from __future__ import annotations

from torch import Tensor

from megatron_stare.algorithms.hooks import Need
from megatron_stare.ops.partials import TokenScores

OLD: Need[TokenScores] = Need("scores of the policy before the step", passes=1)
"""Log-probs and entropies under the weights before the step's first update."""
REFERENCE: Need[TokenScores] = Need("scores of the reference policy", passes=1)
"""The same under the weights that the run has started from."""
ROLLOUT: Need[Tensor] = Need("log-probs of the engine", passes=0)
"""Those that the tokens were sampled with, `[r]`; anything, NaN too, under the loss mask."""
DEMONSTRATED: Need[Tensor] = Need("which tokens are of demonstrations", passes=0)
"""Bool `[r]`: tokens that the policy is to learn from, and has not chosen; under the loss mask of
the step, so that no link, no statistic and no other term counts them."""
UNTRUNCATED: Need[Tensor] = Need("log-probs of the engine under untruncated sampling", passes=0)
"""The same, where their mean estimates an entropy: neither top-p nor top-k has renormalised it."""
