"""STARE as a link: gate, rank, weigh (arXiv 2606.19236, algorithm steps 1 to 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from megatron_stare.algorithms.hooks import Credit, Link, Metric, Need, Step
from megatron_stare.algorithms.needs import OLD, ROLLOUT, UNTRUNCATED
from megatron_stare.algorithms.quadrants import quadrant_metrics
from megatron_stare.algorithms.stare import (
    StareConfig,
    StareController,
    StareDecision,
    StareSelection,
    selection_weights,
    stare_selection,
)


class Stare(StareConfig, Link[StareDecision]):
    """weight * W on the most surprising share of the tokens of A > 0, while entropy is low.

    Low is below the target; in variant C2 also M on the most surprising share of A < 0. Four more
    variants are the paper's ablations, of which its code has none. The state is where gate and
    schedule stand. See docs/stare.md.

    Source: STARE, arXiv 2606.19236; the annealed target, Entrocraft, arXiv 2604.26326
    Status: checked against authors' code
    """

    metrics: ClassVar[Mapping[str, Metric]] = {
        "stare/gate": Metric(
            "1",
            "1 when entropy was below the target and weights were applied.",
            title="Gate on, mean of 10 steps",
            window=10,
            switch_of="entropy/mean",
        ),
        "stare/target": Metric(
            "nats", "The entropy aimed at in this step.", target_of="entropy/mean"
        ),
        "stare/w": Metric(
            "1",
            "Weight W, in O1 of high-surprisal tokens with positive advantage.",
            title="Weight W",
        ),
        "stare/m": Metric(
            "1",
            "Weight M, in C2 of high-surprisal tokens with negative advantage.",
            title="Weight M",
        ),
        "stare/threshold_positive": Metric(
            "nats",
            "Surprisal of the last token selected among those with positive advantage.",
            title="Threshold, A > 0",
        ),
        "stare/threshold_negative": Metric(
            "nats",
            "Surprisal of the last token selected among those with negative advantage.",
            title="Threshold, A < 0",
        ),
        "stare/selected_share": Metric(
            "share",
            "Loss tokens selected, of either sign, whatever the gate.",
            title="Selected tokens",
        ),
        "stare/engine_overlap": Metric(
            "share", "Selected tokens that the policy's log-probs and the engine's both select."
        ),
    }

    @property
    def needs(self) -> frozenset[Need[Any]]:
        """What ranks the tokens, and tells the entropy of the batch."""
        return frozenset({OLD if self.surprisal == "policy" else UNTRUNCATED})

    def start(self) -> StareDecision:
        """On, until an entropy is known."""
        return StareController(self).decision

    def advance(self, state: StareDecision, step: Step) -> StareDecision:
        """Decide by the batch's mean entropy.

        By the engine's log-probs it is the mean surprisal of the sampled tokens, an unbiased
        estimate of it when sampling is not truncated.
        """
        by_policy = self.surprisal == "policy"
        entropies = step[OLD].entropies if by_policy else -step[UNTRUNCATED]
        controller = StareController(self, state)
        decision = controller.update(float(step.stats.mean(entropies)), step.number)
        if not decision.entropy_is_finite:
            step.news.append("entropy is not finite; gate, w and m are held")
        return decision

    def apply(self, credit: Credit, step: Step, state: StareDecision) -> Credit:
        """Multiply the weights of what is selected."""
        selection = self.selection(credit, step)
        dtype = credit.weights.dtype
        return credit.scaled(selection_weights(selection, state, self, dtype=dtype))

    def selection(self, credit: Credit, step: Step) -> StareSelection:
        """L+ and L- of the step, ranked once."""
        by_policy = self.surprisal == "policy"
        logprobs = step[OLD].logprobs if by_policy else step[UNTRUNCATED]
        return step.once(self, lambda: most_surprising(logprobs, credit, step, self.top_share))

    def sets(self, credit: Credit, step: Step, state: StareDecision) -> Mapping[str, Tensor]:
        """L+ and L-, whatever the gate."""
        selection = self.selection(credit, step)
        return {"L+": selection.positive, "L-": selection.negative}

    def report(self, credit: Credit, step: Step, state: StareDecision) -> Mapping[str, float]:
        """What was measured and decided."""
        selection = self.selection(credit, step)
        return {
            "stare/gate": float(state.gate_on),
            "stare/target": self.target_at(step.number),
            "stare/w": state.w,
            "stare/m": state.m,
            "stare/threshold_positive": selection.threshold_positive,
            "stare/threshold_negative": selection.threshold_negative,
            "stare/selected_share": float(step.stats.mean(selection.mask)),
            "stare/engine_overlap": self._overlap(selection, credit, step),
            **quadrant_metrics(step[OLD].entropies, selection, step.stats),
        }

    def _overlap(self, selection: StareSelection, credit: Credit, step: Step) -> float:
        """Share of the selected tokens that policy and engine agree on.

        Whichever log-probs ranked the step, the other ones rank it again. NaN without selected
        tokens or without log-probs of the engine.
        """
        if not step.knows(ROLLOUT):
            return math.nan
        by_policy = self.surprisal == "policy"
        others = step[ROLLOUT] if by_policy else step[OLD].logprobs
        other = most_surprising(others, credit, step, self.top_share)
        return float(step.stats.mean(other.mask, where=selection.mask))


def most_surprising(
    logprobs: Tensor, credit: Credit, step: Step, top_share: float
) -> StareSelection:
    """L+ and L- over the global batch, by log-probs `[r]`.

    A log-prob that is not finite under a broken policy ranks as 0: the loss is not finite either,
    and the update is skipped.
    """
    return stare_selection(
        torch.nan_to_num(-logprobs, posinf=0.0, neginf=0.0),
        credit.advantages,
        top_share=top_share,
        token_ids=step.stats.token_ids,
        group=step.group,
    )
