"""STARE and its kin from the papers' formulas, and not from this project's code.

GRPO's advantages; STARE's ranking by sorting, its gate and schedule; TIS and IcePop; the clipped
surrogate; an entropy bonus and the KL penalty k3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from megatron_stare.algorithms.config import AlgorithmConfig
from megatron_stare.algorithms.links.stare import Stare
from megatron_stare.algorithms.needs import OLD, REFERENCE
from megatron_stare.types import RolloutBatch
from tests.reference_policy import Sample, samples_of
from tests.reference_step import Facts, Mean, Ranked


class HandWritten:
    """What these methods make of a step.

    `smallest_gap` is the least distance in nats, over the steps so far, between the surprisal of
    the last token selected and that of the first one left out: scores that are wrong by less than
    half of it select the same tokens. 0 where the two tie.

    `smallest_margin` is the least distance in nats of a counted token's log ratio, policy against
    engine, to a bound of the correction's band; `num_below` and `num_above` count the tokens that
    were outside.
    """

    def __init__(self, method: AlgorithmConfig) -> None:
        links, terms = method.links, method.terms
        known = {"grpo", "stare", "tis", "icepop", "clip", "entropy", "kl"}
        assert {*links, *terms, *method.policy} <= known, "no formula is written out"
        self.aggregation = method.aggregation
        self.stare = links.get("stare", Stare())
        self.has_stare = "stare" in links
        self.clip = method.policy["clip"]
        self.entropy_coef = terms["entropy"].coef if "entropy" in terms else 0.0
        self.kl_coef = terms["kl"].coef if "kl" in terms else 0.0
        self.correction = next((name for name in ("tis", "icepop") if name in links), None)
        self.band = links[self.correction] if self.correction else None
        self.w, self.m = self.stare.w, self.stare.m
        self.smallest_gap = math.inf
        self.smallest_margin = math.inf
        self.num_below, self.num_above = 0, 0

    def decide(self, batch: RolloutBatch, facts: Facts) -> _Factors:
        """Rank, gate, correct."""
        samples, mask = samples_of(batch), batch.loss_mask
        logprobs, entropies = facts[OLD].logprobs, facts[OLD].entropies
        by_rollout = self.stare.surprisal == "rollout"
        surprisal = -batch.rollout_logprobs.double() if by_rollout else -logprobs
        of_samples = _group_advantages(batch.rewards.tolist(), batch.group_ids.tolist())
        advantages = torch.tensor(of_samples, dtype=torch.float64)[batch.sample_ids] * mask
        positive = self._most_surprising(surprisal, advantages > 0)
        negative = self._most_surprising(surprisal, advantages < 0)
        gate_on = self._gate(float((surprisal if by_rollout else entropies)[mask].mean()))
        factors = self._corrections(samples, mask, logprobs, batch.rollout_logprobs.double())
        if gate_on:
            factors[positive] *= self.w
            if self.stare.variant == "C2":
                factors[negative] *= self.m
        reference = facts[REFERENCE].logprobs if self.kl_coef else torch.zeros_like(logprobs)
        return _Factors(
            means=[Mean(self.aggregation, mask)],
            ranked=Ranked(positive, negative, (gate_on, self.w, self.m)),
            advantages=advantages,
            factors=factors,
            old=logprobs,
            reference=reference,
            of=self,
        )

    def _most_surprising(self, surprisal: Tensor, candidates: Tensor) -> Tensor:
        """Ids of ceil(share of the candidates), by (surprisal descending, id ascending)."""
        ids = candidates.nonzero().squeeze(1).tolist()
        ranked = sorted(ids, key=lambda i: (-float(surprisal[i]), i))
        count = math.ceil(Fraction(str(self.stare.top_share)) * len(ranked))
        gap = float(surprisal[ranked[count - 1]] - surprisal[ranked[count]])
        self.smallest_gap = min(self.smallest_gap, gap)
        return torch.tensor(sorted(ranked[:count]))

    def _gate(self, entropy: float) -> bool:
        stare = self.stare
        if not self.has_stare:
            return False
        if stare.adaptive:
            sign = (stare.target_entropy > entropy) - (stare.target_entropy < entropy)
            self.w = min(max(self.w + sign * stare.alpha, 1.0), stare.w_max)
            self.m = min(max(self.m - sign * stare.alpha, stare.m_min), 1.0)
        return entropy < stare.target_entropy

    def _corrections(
        self, samples: Sequence[Sample], mask: Tensor, logprobs: Tensor, engine_logprobs: Tensor
    ) -> Tensor:
        """The factor of each token that corrects for the engine's distribution, `[R]`."""
        factors = torch.ones_like(logprobs)
        if self.band is None:
            return factors
        for sample in samples:
            counted = [t for t in range(*sample.response.indices(len(mask))) if mask[t]]
            log_ratios = [float(logprobs[t] - engine_logprobs[t]) for t in counted]
            if self.band.level == "geometric" and counted:
                log_ratios = [sum(log_ratios) / len(counted)] * len(counted)
            for t, log_ratio in zip(counted, log_ratios, strict=True):
                factors[t] = self._corrected(log_ratio)
        return factors

    def _corrected(self, log_ratio: float) -> float:
        """TIS cuts a ratio to the band, IcePop keeps it there and gives 0 elsewhere."""
        config = self.band
        for bound in (config.low, config.high):
            margin = abs(log_ratio - math.log(bound))
            self.smallest_margin = min(self.smallest_margin, margin)
        ratio = math.exp(log_ratio)
        self.num_below += ratio < config.low
        self.num_above += ratio > config.high
        if config.low <= ratio <= config.high:
            return ratio
        return {"tis": config.low if ratio < 1 else config.high, "icepop": 0.0}[self.correction]


@dataclass(frozen=True)
class _Factors:
    """A step of `HandWritten`: what each token's loss is multiplied by, and made of; `[R]` each."""

    means: Sequence[Mean]
    ranked: Ranked
    advantages: Tensor
    factors: Tensor
    old: Tensor
    reference: Tensor
    of: HandWritten
    credit: None = None
    report: Mapping[str, float] = field(default_factory=dict)

    def losses(self, here: slice, logprobs: Tensor, entropies: Tensor) -> list[Tensor]:
        """factor_t * l_t - coef * H_t + coef * k3_t."""
        ratio = (logprobs - self.old[here]).clamp(-20, 20).exp()
        losses = self.factors[here] * self._surrogate(ratio, self.advantages[here])
        losses = losses - self.of.entropy_coef * entropies
        d = self.reference[here] - logprobs
        return [losses + self.of.kl_coef * (d.exp() - d - 1) if self.of.kl_coef else losses]

    def _surrogate(self, ratio: Tensor, advantages: Tensor) -> Tensor:
        """max(-A r, -A clip(r)), for A < 0 at most -A c."""
        clip = self.of.clip
        clipped = ratio.clamp(1 - clip.low, 1 + clip.high)
        losses = -torch.stack([advantages * ratio, advantages * clipped]).min(0).values
        bound = torch.where(advantages < 0, -advantages * clip.dual, math.inf)
        return torch.minimum(losses, bound)


def _group_advantages(rewards: Sequence[float], group_ids: Sequence[int]) -> list[float]:
    """(r - mean) / (std + 1e-6) in each group, unbiased std."""
    advantages = []
    for reward, group in zip(rewards, group_ids, strict=True):
        members = [r for r, other in zip(rewards, group_ids, strict=True) if other == group]
        mean = sum(members) / len(members)
        std = math.sqrt(sum((r - mean) ** 2 for r in members) / (len(members) - 1))
        advantages.append((reward - mean) / (std + 1e-6))
    return advantages
