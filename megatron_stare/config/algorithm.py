"""Rewards, advantages, loss."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from megatron_stare.algorithms.corrections import CorrectionConfig
from megatron_stare.algorithms.settings import Settings
from megatron_stare.values import CountOrZero, Seconds, Weight


class RewardConfig(Settings):
    """How a response is judged."""

    kind: str = "math"
    """`math`, `exact`, or a function of your own, `package.module:function(response, answer)`."""
    format_pattern: str | None = None
    """Regular expression a response must match in full; None asks for no format."""
    format_sees: Literal["response", "prefill+response"] = "prefill+response"
    """What it is matched against; the prefill is what the template has begun a response with."""
    format_reward: float = Field(default=0.0, ge=-1_000_000, le=1_000_000)
    """Added when the format matches."""
    deadline_s: Seconds = 10.0
    """Seconds a verification may take before its process is killed."""
    memory_gib: float = Field(default=2.0, ge=0.01, le=1_000_000)
    """Memory a verification may add before its process is killed."""
    workers: int = Field(default=2, ge=1, le=4096)
    """Verifier processes."""
    overlong_buffer_tokens: CountOrZero = 0
    """DAPO's soft overlong penalty over the last tokens before the length limit; 0 is off."""
    overlong_factor: Weight = 1.0
    """Largest overlong penalty."""


class AlgorithmConfig(Settings):
    """Advantages and loss."""

    advantage: Literal["grpo", "dr_grpo", "rloo"] = "grpo"
    """Group baseline and normalisation."""
    clip_low: float = Field(default=0.2, ge=0, lt=1)
    """Ratio is clipped below at 1 - clip_low."""
    clip_high: Weight = 0.28
    """Ratio is clipped above at 1 + clip_high."""
    dual_clip: float = Field(default=10.0, gt=1, le=1_000_000)
    """Bound of the loss in units of |advantage| where the advantage is negative."""
    aggregation: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"] = "token-mean"
    """How token losses become one number, over the global batch."""
    kl: Literal["none", "k1", "k2", "k3"] = "none"
    """Estimator of the penalty towards the starting policy."""
    kl_coef: Weight = 0.0
    """Weight of that penalty."""
    entropy_coef: Weight = 0.0
    """Weight of an entropy bonus: the loss is less by this times the mean entropy, in nats."""
    correction: CorrectionConfig = CorrectionConfig()

    @model_validator(mode="after")
    def _kl_has_a_weight(self) -> AlgorithmConfig:
        if (self.kl == "none") != (self.kl_coef == 0.0):
            raise ValueError(f"kl={self.kl!r} with kl_coef={self.kl_coef}: set both or neither")
        return self
