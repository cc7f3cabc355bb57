"""A policy in float64, dense and one sample at a time: what every layout is measured against.

Plain torch and transformers. Nothing is packed or split: each sample goes through the Hugging Face
model by itself, gradients come from autograd, and AdamW is spelled out.

What is not float64 is the model's own definition of rotary angles, which transformers computes in
float32 whatever the dtype. Its RMSNorm would round to float32 too, and its embedding would keep the
row of `pad_token_id` from learning; here they do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.policy import OptimConfig
from megatron_stare.config.prefer import PreferConfig
from megatron_stare.types import RolloutBatch
from megatron_stare.weights.fused_experts import named_as_in_files


@dataclass(frozen=True)
class Sample:
    """A sample of a batch, and where its response tokens stand among the R of the batch."""

    index: int
    token_ids: Tensor
    prompt_length: int
    response: slice
    temperatures: Tensor | None = None
    """Of its response tokens; None and NaN are the run's."""


def samples_of(batch: RolloutBatch) -> list[Sample]:
    """In the batch's order."""
    tokens = batch.token_ids.split((batch.prompt_lengths + batch.response_lengths).tolist())
    starts = [0, *batch.response_lengths.cumsum(0).tolist()]
    spans = [slice(*span) for span in pairwise(starts)]
    own = batch.temperatures
    return [
        Sample(i, tokens[i], int(batch.prompt_lengths[i]), span, None if own is None else own[span])
        for i, span in enumerate(spans)
    ]


class ReferencePolicy:
    """The model of a Hugging Face folder, and its optimizer."""

    def __init__(self, folder: Path, config: TrainConfig | PreferConfig) -> None:
        self.temperature = config.rollout.temperature if isinstance(config, TrainConfig) else 1.0
        self.clip_grad = config.optim.clip_grad
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

    def score(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Log-prob and entropy of each response token."""
        everything = self._logprobs(sample)
        return _chosen(everything, sample), -(everything.exp() * everything).sum(-1)

    def _logprobs(self, sample: Sample) -> Tensor:
        """Of all tokens, at each response token's place."""
        logits = self.model(sample.token_ids.unsqueeze(0)).logits[0, sample.prompt_length - 1 : -1]
        temperatures = torch.full((len(logits),), self.temperature, dtype=torch.float64)
        if sample.temperatures is not None:
            temperatures = sample.temperatures.double().nan_to_num(self.temperature)
        return (logits / temperatures[:, None]).log_softmax(-1)

    def min_p(self, sample: Sample, kappa: float) -> Tensor:
        """Log-prob of each response token among those of p >= kappa max p; -1e4 of others."""
        everything = self._logprobs(sample)
        probs = everything.exp()
        kept = probs * (probs >= kappa * probs.max(-1, keepdim=True).values)
        shares = kept / kept.sum(-1, keepdim=True)
        return _chosen(torch.where(kept > 0, shares.log(), -1e4), sample)

    def rank_dynamics(self, sample: Sample, counted: Tensor, stride: int, longest: int) -> Tensor:
        """Effective rank of the states that counted response tokens are drawn from, `[3]`.

        With the means of its first and second differences, by singular values of the states.
        """
        hidden = self.model.model(sample.token_ids.unsqueeze(0)).last_hidden_state[0]
        states = hidden[sample.prompt_length - 1 : -1][counted][-longest:]
        ends = range(stride, len(states), stride)
        ranks = [_effective_rank(states[: t + 1]) for t in ends]
        first = [ranks[j] - sum(ranks[:j]) / j for j in range(1, len(ranks))]
        second = [b - a for a, b in pairwise(first)]
        means = [sum(part) / len(part) if part else 0.0 for part in (first, second)]
        return torch.tensor([_effective_rank(states), *means], dtype=torch.float64)

    @contextmanager
    def scaled(self, factor: float) -> Iterator[None]:
        """Meanwhile every weight is times a factor."""
        before = {name: p.detach().clone() for name, p in self.parameters.items()}
        with torch.no_grad():
            for p in self.parameters.values():
                p.mul_(factor)
        yield
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(before[name])

    def clip_and_step(self) -> float:
        """One step of the optimizer; the norm of the gradient before it was clipped."""
        gradients = [p.grad for p in self.parameters.values()]
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
        for gradient in gradients:
            gradient.mul_(min(1.0, self.clip_grad / (norm + 1e-6)))
        self.adamw.step()
        return norm

    def gradients(self) -> dict[str, Tensor]:
        """By Hugging Face name."""
        return named_as_in_files({n: p.grad.clone() for n, p in self.parameters.items()})

    def weights(self) -> dict[str, Tensor]:
        """By Hugging Face name."""
        return named_as_in_files({n: p.detach().clone() for n, p in self.parameters.items()})


def _chosen(everything: Tensor, sample: Sample) -> Tensor:
    return everything.gather(1, sample.token_ids[sample.prompt_length :, None])[:, 0]


def _effective_rank(states: Tensor) -> float:
    if len(states) < 2:
        return 0.0
    values = torch.linalg.svdvals(states - states.mean(0))
    shares = values / (values.sum() + 1e-8)
    return math.exp(-float((shares * (shares + 1e-8).log()).sum()))


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


def _rms_norm(module: torch.nn.Module, x: Tensor) -> Tensor:
    return module.weight * x * (x.square().mean(-1, keepdim=True) + module.variance_epsilon).rsqrt()
