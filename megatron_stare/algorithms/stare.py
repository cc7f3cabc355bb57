"""STARE: surprisal-guided reweighting of token advantages (arXiv 2606.19236).

    rank     L+ and L-: the most surprising tokens of positive and of negative advantage
    gate     on while the batch's entropy is below the target
    weigh    omega = W on L+, in variant C2 also M on L-; 1 elsewhere, and while the gate is off

U+ and U- are the other tokens of each sign; the paper's ablations weigh these (`VARIANTS`).

L+ and L- are exact over the *global* batch: the same tokens in every layout and micro-batch size.
Everything per token is flat, `[n]`, over the tokens of this rank; `group` spans the ranks that hold
the others, and None stands for this process alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.distributed as dist
from pydantic import Field, model_validator
from torch import Tensor

from megatron_stare.algorithms.schedules import Shape, eased
from megatron_stare.ops.selection import global_top_k_with_threshold, share_of
from megatron_stare.system.settings import Settings
from megatron_stare.system.values import Count, CountOrZero, Multiple, PositiveWeight


class AnnealConfig(Settings):
    """How the target entropy moves between two steps of a run; before and after, it stays.

    Held first and lowered then, it keeps ways of solving open while they are found, and lets the
    policy decide between them at the end (Entrocraft, arXiv 2604.26326).
    """

    to: PositiveWeight
    """The target from `to_step` on, nats per token."""
    from_step: CountOrZero = 0
    """The last step of the first target."""
    to_step: Count
    """The first step of the last target."""
    shape: Shape = "linear"
    """A straight line between them, or half a wave, which starts and ends slowly."""

    @model_validator(mode="after")
    def _takes_time(self) -> AnnealConfig:
        if self.from_step >= self.to_step:
            raise ValueError(
                f"from_step={self.from_step} with to_step={self.to_step}: expected a later to_step"
            )
        return self

    def share_at(self, step: int) -> float:
        """How much of the way is behind, from 0 to 1."""
        gone = (step - self.from_step) / (self.to_step - self.from_step)
        gone = min(max(gone, 0.0), 1.0)
        return eased(gone, self.shape)


class StareConfig(Settings):
    """The method's settings. Its defaults are the paper's for models up to 7B.

    >>> StareConfig(target_entropy=0.5).w
    1.1
    """

    variant: Literal["O1", "C2", "C1", "O4", "U+", "U-"] = "O1"
    """O1 reweights L+ (by w); C2 also L- (by m). Ablations: C1 L+ and U- (by w), O4 L- alone (by
    m), U+ the less surprising tokens of A > 0 (by m), U- those of A < 0 (by w)."""
    top_share: float = Field(default=0.10, gt=0, le=1)
    """P: the share of the tokens of each advantage sign that is selected."""
    w: Multiple = 1.1
    """W, the weight of L+; where it starts if `adaptive`."""
    m: float = Field(default=0.9, ge=0, le=1)
    """M, the weight of L-; where it starts if `adaptive`."""
    target_entropy: PositiveWeight = 0.3
    """H_tgt, nats per token: the gate is on below it."""
    anneal: AnnealConfig | None = None
    """How the target moves from there; None holds it."""
    adaptive: bool = False
    """Move w and m by `alpha` each step, towards the target (paper, section 4.4)."""
    alpha: PositiveWeight = 0.01
    """Step of the adaptive schedule."""
    w_max: Multiple = 1.5
    """Largest w of the adaptive schedule."""
    m_min: float = Field(default=0.5, ge=0, le=1)
    """Smallest m of the adaptive schedule."""
    surprisal: Literal["policy", "rollout"] = "policy"
    """Whose log-probs rank the tokens: the trainer's before the update, or the engine's."""

    def target_at(self, step: int) -> float:
        """H_tgt of a step, in nats per token."""
        if self.anneal is None:
            return self.target_entropy
        share = self.anneal.share_at(step)
        return (1 - share) * self.target_entropy + share * self.anneal.to

    @model_validator(mode="after")
    def _can_act(self) -> StareConfig:
        if self.adaptive and self.w > self.w_max:
            raise ValueError(f"w={self.w} starts above w_max={self.w_max}")
        if self.adaptive and self.m < self.m_min:
            raise ValueError(f"m={self.m} starts below m_min={self.m_min}")
        return self


@dataclass(frozen=True, slots=True)
class StareDecision:
    """What the controller made of a batch's entropy: whether to reweight, and by how much.

    `entropy_is_finite` is False for a batch whose entropy says nothing: it moved nothing, and the
    decision is that of the step before.
    """

    gate_on: bool
    w: float
    m: float
    entropy_is_finite: bool = True


class StareController:
    """The gate and the adaptive schedule; one `update` per step, before the weights are used.

        >>> controller = StareController(StareConfig(target_entropy=0.3))
        >>> controller.update(0.25).gate_on, controller.update(0.35).gate_on
        (True, False)

    Args:
        config: of the method.
        decision: of the step before; None before the first, where the gate is on.
    """

    def __init__(self, config: StareConfig, decision: StareDecision | None = None) -> None:
        self._config = config
        self.decision = decision or StareDecision(True, config.w, config.m)
        """Where gate and schedule stand."""
        if not config.adaptive:  # Weights that do not adapt are those of the config.
            self.decision = replace(self.decision, w=config.w, m=config.m)

    def update(self, batch_entropy: float, step: int = 0) -> StareDecision:
        """Decide for a batch; an entropy that is not finite changes nothing.

        Args:
            batch_entropy: token mean of the policy's entropy over the global batch, before its
                update, in nats.
            step: of the run; an annealed target depends on it.
        """
        is_finite = math.isfinite(batch_entropy)
        if is_finite:
            below = self._config.target_at(step) - batch_entropy
            self.decision = StareDecision(below > 0, *self._weights(below))
        self.decision = replace(self.decision, entropy_is_finite=is_finite)
        return self.decision

    def _weights(self, below: float) -> tuple[float, float]:
        config, w, m = self._config, self.decision.w, self.decision.m
        if not config.adaptive:
            return w, m
        step = math.copysign(config.alpha, below) if below else 0.0
        return min(max(w + step, 1.0), config.w_max), min(max(m - step, config.m_min), 1.0)


@dataclass(frozen=True, slots=True)
class StareSelection:
    """L+, L-, U+ and U- on this rank, bool `[n]`, and the surprisal of the last of L, in nats.

    A threshold is the k-th largest surprisal of its sign over the global batch: the practical
    critical value. NaN where nothing is selected.
    """

    positive: Tensor
    negative: Tensor
    rest_positive: Tensor
    rest_negative: Tensor
    threshold_positive: float
    threshold_negative: float

    @property
    def mask(self) -> Tensor:
        """Tokens of L+ or L-, bool `[n]`."""
        return self.positive | self.negative


VARIANTS: dict[str, dict[str, str]] = {
    "O1": {"positive": "w"},
    "C2": {"positive": "w", "negative": "m"},
    "C1": {"positive": "w", "rest_negative": "w"},
    "O4": {"negative": "m"},
    "U+": {"rest_positive": "m"},
    "U-": {"rest_negative": "w"},
}
"""Which sets of a selection each variant weighs, and by which weight."""


def stare_selection(
    surprisal: Tensor,
    advantages: Tensor,
    *,
    top_share: float,
    token_ids: Tensor,
    group: dist.ProcessGroup | None = None,
) -> StareSelection:
    """Select the `ceil(top_share * |T|)` most surprising tokens of each advantage sign T.

    At least one where a sign has tokens and `top_share` > 0. Ties go to the smaller token ids.

    Args:
        surprisal: float32 `[n]`, nats.
        advantages: float `[n]`; zero-advantage tokens are in neither set.
        token_ids: int64 `[n]`, unique over the group.

    Raises:
        ValueError: on every rank, a surprisal is NaN; the message names the token id.
    """
    signs = (advantages > 0, advantages < 0)
    counts = torch.stack([sign.sum() for sign in signs])
    if group is not None:
        dist.all_reduce(counts, group=group)
    chosen: list[tuple[Tensor, float]] = []
    for sign, count in zip(signs, counts.tolist(), strict=True):
        top = global_top_k_with_threshold(
            surprisal[sign], share_of(top_share, count), token_ids=token_ids[sign], group=group
        )
        chosen.append((torch.zeros_like(sign).masked_scatter_(sign, top.mask), top.threshold))
    (positive, above), (negative, below) = chosen
    return StareSelection(
        positive, negative, signs[0] & ~positive, signs[1] & ~negative, above, below
    )


def selection_weights(
    selection: StareSelection,
    decision: StareDecision,
    config: StareConfig,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """omega of tokens already ranked, `[n]`."""
    omega = torch.ones_like(selection.positive, dtype=dtype)
    if decision.gate_on:
        for members, weight in VARIANTS[config.variant].items():
            omega[getattr(selection, members)] = getattr(decision, weight)
    return omega


def stare_weights(
    surprisal: Tensor,
    advantages: Tensor,
    *,
    decision: StareDecision,
    config: StareConfig,
    token_ids: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """omega, the factor of each token's loss, `[n]` in the dtype of `surprisal` (steps 1 to 4).

    While the gate is off nothing is ranked, and nothing communicated.

        >>> config = StareConfig(top_share=0.5, w=1.5)
        >>> decision = StareController(config).decision
        >>> surprisal, advantages = torch.tensor([0.1, 2.0, 3.0]), torch.tensor([1.0, 1.0, -1.0])
        >>> stare_weights(surprisal, advantages, decision=decision, config=config).tolist()
        [1.0, 1.5, 1.0]

    Args:
        surprisal: float `[n]`, nats, before the update.
        advantages: float `[n]`, per token; 0 under the loss mask.
        token_ids: int64 `[n]`, unique over the group, decide ties; needed with a group, and without
            one they default to positions.

    Raises:
        ValueError: token ids are missing with a group, or as for `stare_selection`.
    """
    if token_ids is None:
        if group is not None:
            raise ValueError("token_ids is None with a group: positions are not unique over ranks")
        token_ids = torch.arange(len(surprisal), device=surprisal.device)
    if not decision.gate_on:
        return torch.ones_like(surprisal)
    selection = stare_selection(
        surprisal, advantages, top_share=config.top_share, token_ids=token_ids, group=group
    )
    return selection_weights(selection, decision, config, dtype=surprisal.dtype)
