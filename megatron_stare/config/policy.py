"""The policy: network, layout, optimizer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from megatron_stare.system.settings import Settings
from megatron_stare.system.values import CountOrZero, FilePath, RankCount, Weight


class ModelConfig(Settings):
    """The policy network."""

    path: FilePath
    """Hugging Face folder: config.json, tokenizer and, unless `random_init`, safetensors."""
    random_init: bool = False
    """Start from random weights (a seeded initialisation) instead of the folder's."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Parameter and activation type; gradients are accumulated in float32."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activation recompute: core attention only, or every layer."""


def sample_multiple(context: int) -> int:
    """Context parallelism of this size pads every sample to a multiple of so many tokens."""
    return 2 * context if context > 1 else 1


def padded_length(num_tokens: int, context: int) -> int:
    """Tokens that a sample of `num_tokens` takes up in a micro-batch."""
    multiple = sample_multiple(context)
    return -(-num_tokens // multiple) * multiple


class ParallelConfig(Settings):
    """How one policy replica is split; data parallelism takes the rest of the world."""

    tensor: RankCount = 1
    """Tensor-parallel size."""
    pipeline: RankCount = 1
    """Pipeline-parallel size."""
    virtual_pipeline: RankCount = 1
    """Model chunks per pipeline stage, interleaved over the stages: a smaller pipeline bubble."""
    context: RankCount = 1
    """Context-parallel size: ranks that share the tokens of every sample."""
    expert: RankCount = 1
    """Expert-parallel size: ranks of a pipeline stage, of any tensor, context and data parallelism,
    that share the experts of a layer; each computes its experts for the tokens of all."""
    sequence: bool = False
    """Sequence parallelism: split norms and dropout regions along tokens over the tensor group."""

    @property
    def replica(self) -> int:
        """Processes that hold one copy of the policy and work on the same samples."""
        return self.tensor * self.context * self.pipeline

    def named(self, data: int) -> str:
        """Of so many replicas, such as `TP8 PP4x2 CP2 DP1`."""
        chunks = f"x{self.virtual_pipeline}" if self.virtual_pipeline > 1 else ""
        expert = f" EP{self.expert}" if self.expert > 1 else ""
        return f"TP{self.tensor} PP{self.pipeline}{chunks} CP{self.context}{expert} DP{data}"

    def explain_padded(self, num_tokens: int) -> str:
        """`num_tokens`, and their `padded_length` where it differs."""
        padded = padded_length(num_tokens, self.context)
        if padded == num_tokens:
            return str(num_tokens)
        return f"{num_tokens} ({padded} padded for parallel.context={self.context})"

    @model_validator(mode="after")
    def _sequence_needs_tensor(self) -> ParallelConfig:
        if self.sequence and self.tensor == 1:
            raise ValueError("parallel.sequence=true needs parallel.tensor > 1, found 1")
        return self

    @model_validator(mode="after")
    def _chunks_need_stages(self) -> ParallelConfig:
        if self.virtual_pipeline > 1 and self.pipeline == 1:
            raise ValueError(
                f"parallel.virtual_pipeline={self.virtual_pipeline} needs parallel.pipeline > 1, "
                "found 1"
            )
        return self


class OptimConfig(Settings):
    """AdamW and its schedule."""

    lr: float = Field(default=1e-6, gt=0, le=10)
    """Peak learning rate."""
    min_lr: float = Field(default=0.0, ge=0, le=10)
    """Learning rate at the end of the decay."""
    warmup_steps: CountOrZero = 0
    """Optimizer steps of linear warm-up."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """Schedule after the warm-up, over the rest of the run."""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """Decoupled; not applied to norms and biases."""
    beta1: float = Field(default=0.9, ge=0, le=0.999_999)
    """Decay of the first moment."""
    beta2: float = Field(default=0.999, ge=0, le=0.999_999)
    """Decay of the second moment."""
    eps: float = Field(default=1e-8, ge=1e-30, le=1)
    """Denominator offset."""
    clip_grad: Weight = 1.0
    """Largest global gradient norm; 0 does not clip."""

    @model_validator(mode="after")
    def _decays_downwards(self) -> OptimConfig:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr={self.min_lr} exceeds lr={self.lr}")
        if self.min_lr and self.decay == "constant":
            raise ValueError(
                f"min_lr={self.min_lr} with decay='constant': the rate never falls to it, expected "
                "decay 'linear' or 'cosine', or 0"
            )
        return self
