"""A STARE step in float64, dense and one sample at a time: what every layout is measured against.

Plain torch and transformers, written from the papers' formulas and not from this project's code.
Nothing is packed, masked away or split: each sample goes through the Hugging Face model by itself,
tokens are ranked by sorting, gradients come from autograd, and AdamW is spelled out.

What is not float64 is the model's own definition of rotary angles, which transformers computes in
float32 whatever the dtype. Its RMSNorm would round to float32 too, and its embedding would keep the
row of `pad_token_id` from learning; here they do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from megatron_stare.algorithms.links.stare import Stare
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.policy import OptimConfig
from megatron_stare.types import RolloutBatch
from megatron_stare.weights.fused_experts import named_as_in_files


@dataclass(frozen=True)
class StepOutcome:
    """Everything of a step that no layout may change.

    logprobs, entropies   [R]    under the weights before the step, in the batch's order; 0 where
                                 the loss mask is
    positive, negative    int64  token ids of L+ and L-, ascending
    decision                     gate on, w, m
    losses, grad_norms           of each update
    gradients                    of the last update, clipped, by Hugging Face name
    weights                      after the step, by Hugging Face name
    """

    logprobs: Tensor
    entropies: Tensor
    positive: Tensor
    negative: Tensor
    decision: tuple[bool, float, float]
    losses: list[float]
    grad_norms: list[float]
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]


class ReferenceTrainer:
    """A policy in float64 that takes one step after another.

    `smallest_gap` is the least distance in nats, over the steps so far, between the surprisal of
    the last token selected and that of the first one left out: scores that are wrong by less than
    half of it select the same tokens. 0 where the two tie.

    `smallest_margin` is the least distance in nats of a counted token's log ratio, policy against
    engine, to a bound of the correction's band; `num_below` and `num_above` count the tokens that
    were outside.
    """

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        self.config = config
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float64, attn_implementation="sdpa"
        )
        self.model.set_experts_implementation("eager")  # grouped products take no float64
        for module in self.model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = partial(_rms_norm, module)
        self.model.get_input_embeddings().padding_idx = None
        self.parameters = dict(self.model.named_parameters())
        self.adamw = _AdamW(self.parameters, config.optim)
        links, terms = config.algorithm.links, config.algorithm.terms
        self.stare = links.get("stare", Stare())
        self.has_stare = "stare" in links
        self.clip = config.algorithm.policy["clip"]
        self.entropy_coef = terms["entropy"].coef if "entropy" in terms else 0.0
        self.correction = next((name for name in ("tis", "icepop") if name in links), None)
        self.band = links[self.correction] if self.correction else None
        self.w, self.m = self.stare.w, self.stare.m
        self.smallest_gap = math.inf
        self.smallest_margin = math.inf
        self.num_below, self.num_above = 0, 0

    def step(self, batch: RolloutBatch) -> StepOutcome:
        """One STARE step: score, rank, gate, and update as often as the config says."""
        samples, mask = _samples(batch), batch.loss_mask
        with torch.no_grad():
            scores = [self._score(sample) for sample in samples]
        logprobs, entropies = (torch.cat(parts) for parts in zip(*scores, strict=True))

        by_rollout = self.stare.surprisal == "rollout"
        surprisal = -batch.rollout_logprobs.double() if by_rollout else -logprobs
        advantages = _group_advantages(batch.rewards.tolist(), batch.group_ids.tolist())
        token_advantages = torch.tensor(advantages, dtype=torch.float64)[batch.sample_ids] * mask
        positive = self._most_surprising(surprisal, token_advantages > 0)
        negative = self._most_surprising(surprisal, token_advantages < 0)
        gate_on = self._gate(float((surprisal if by_rollout else entropies)[mask].mean()))

        omega = torch.ones_like(surprisal)
        if gate_on:
            omega[positive] = self.w
            if self.stare.variant == "C2":
                omega[negative] = self.m
        corrections = self._corrections(samples, mask, logprobs, batch.rollout_logprobs.double())
        losses, grad_norms = [], []
        for ids in _updates(batch.group_ids.tolist(), self.config.train.updates_per_step):
            coefficients = _coefficients(self.config.algorithm.aggregation, batch, ids)
            factors = omega * corrections * coefficients
            bonuses = self.entropy_coef * coefficients
            chosen = [samples[i] for i in ids]
            losses.append(self._backward(chosen, factors, bonuses, logprobs, advantages))
            grad_norms.append(self._clip_and_step())
        return StepOutcome(
            logprobs=logprobs * mask,
            entropies=entropies * mask,
            positive=positive,
            negative=negative,
            decision=(gate_on, self.w, self.m),
            losses=losses,
            grad_norms=grad_norms,
            gradients=named_as_in_files({n: p.grad.clone() for n, p in self.parameters.items()}),
            weights=named_as_in_files({n: p.detach().clone() for n, p in self.parameters.items()}),
        )

    def _score(self, sample: _Sample) -> tuple[Tensor, Tensor]:
        """Log-prob and entropy of each response token."""
        logits = self.model(sample.token_ids.unsqueeze(0)).logits[0, sample.prompt_length - 1 : -1]
        everything = (logits / self.config.rollout.temperature).log_softmax(-1)
        chosen = sample.token_ids[sample.prompt_length :].unsqueeze(1)
        return everything.gather(1, chosen).squeeze(1), -(everything.exp() * everything).sum(-1)

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
        self, samples: Sequence[_Sample], mask: Tensor, logprobs: Tensor, engine_logprobs: Tensor
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

    def _backward(
        self,
        samples: Sequence[_Sample],
        factors: Tensor,
        bonuses: Tensor,
        old_logprobs: Tensor,
        advantages: Sequence[float],
    ) -> float:
        """Fill the gradients; returns sum_t factor_t * l_t - bonus_t * H_t."""
        self.model.zero_grad()
        total = 0.0
        for sample in samples:
            advantage, here = advantages[sample.index], sample.response
            logprobs, entropies = self._score(sample)
            ratio = (logprobs - old_logprobs[here]).clamp(-20, 20).exp()
            losses = self._token_loss(ratio, advantage)
            loss = (factors[here] * losses - bonuses[here] * entropies).sum()
            loss.backward()
            total += loss.item()
        return total

    def _token_loss(self, ratio: Tensor, advantage: float) -> Tensor:
        """max(-A r, -A clip(r)), for A < 0 at most -A c."""
        clipped = ratio.clamp(1 - self.clip.low, 1 + self.clip.high)
        gain = torch.stack([advantage * ratio, advantage * clipped]).min(0).values
        return -gain if advantage >= 0 else (-gain).clamp(max=-advantage * self.clip.dual)

    def _clip_and_step(self) -> float:
        gradients = [p.grad for p in self.parameters.values()]
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
        for gradient in gradients:
            gradient.mul_(min(1.0, self.config.optim.clip_grad / (norm + 1e-6)))
        self.adamw.step()
        return norm


class _AdamW:
    """Decoupled weight decay on matrices, none on norms and biases (arXiv 1711.05101)."""

    def __init__(self, parameters: dict[str, torch.nn.Parameter], config: OptimConfig) -> None:
        self.parameters = list(parameters.values())
        self.config = config
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.num_steps = 0

    @torch.no_grad()
    def step(self) -> None:
        config = self.config
        self.num_steps += 1
        for p, first, second in zip(self.parameters, self.first, self.second, strict=True):
            first += (1 - config.beta1) * (p.grad - first)
            second += (1 - config.beta2) * (p.grad.square() - second)
            mean = first / (1 - config.beta1**self.num_steps)
            scale = (second / (1 - config.beta2**self.num_steps)).sqrt() + config.eps
            decay = config.weight_decay if p.ndim > 1 else 0.0
            p -= config.lr * (mean / scale + decay * p)


@dataclass(frozen=True)
class _Sample:
    index: int
    token_ids: Tensor
    prompt_length: int
    response: slice
    """Where its response tokens stand among the R of the batch."""


def _samples(batch: RolloutBatch) -> list[_Sample]:
    tokens = batch.token_ids.split((batch.prompt_lengths + batch.response_lengths).tolist())
    starts = [0, *batch.response_lengths.cumsum(0).tolist()]
    return [
        _Sample(i, tokens[i], int(batch.prompt_lengths[i]), slice(starts[i], starts[i + 1]))
        for i in range(len(tokens))
    ]


def _group_advantages(rewards: Sequence[float], group_ids: Sequence[int]) -> list[float]:
    """(r - mean) / (std + 1e-6) in each group, unbiased std."""
    advantages = []
    for reward, group in zip(rewards, group_ids, strict=True):
        members = [r for r, other in zip(rewards, group_ids, strict=True) if other == group]
        mean = sum(members) / len(members)
        std = math.sqrt(sum((r - mean) ** 2 for r in members) / (len(members) - 1))
        advantages.append((reward - mean) / (std + 1e-6))
    return advantages


def _updates(group_ids: Sequence[int], count: int) -> list[list[int]]:
    """Samples of each update: equal runs of groups, in batch order."""
    groups = list(dict.fromkeys(group_ids))
    size = len(groups) // count
    runs = [groups[start : start + size] for start in range(0, len(groups), size)]
    return [[i for i, group in enumerate(group_ids) if group in run] for run in runs]


def _coefficients(kind: str, batch: RolloutBatch, ids: Sequence[int]) -> Tensor:
    """What each token of an update weighs in its loss, `[R]`; 0 elsewhere and under the mask."""
    counted = batch.loss_mask & torch.isin(batch.sample_ids, torch.tensor(ids))
    if kind == "token-mean":
        return counted.double() / counted.sum()
    tokens = torch.bincount(batch.sample_ids[counted], minlength=len(batch)).double()
    assert kind == "seq-mean-token-mean"
    return counted / (tokens[batch.sample_ids] * (tokens > 0).sum()).clamp(min=1)


def _rms_norm(module: torch.nn.Module, x: Tensor) -> Tensor:
    return module.weight * x * (x.square().mean(-1, keepdim=True) + module.variance_epsilon).rsqrt()
