"""`megatron-stare pivots`."""

from __future__ import annotations

from pydantic import Field, model_validator

from megatron_stare.config.algorithm import RewardConfig
from megatron_stare.config.data import DataConfig
from megatron_stare.config.policy import ModelConfig
from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.config.run import LogConfig, RunConfig
from megatron_stare.system.settings import Settings
from megatron_stare.system.values import Count, Share


class PivotsSection(SamplingConfig):
    """Which states are profiled and kept."""

    samples_per_state: int = Field(default=8, ge=2, le=100_000)
    """Continuations of a state."""
    max_mean: Share
    """Kept are states with a mean verdict below it, of those whose verdicts vary."""
    response_field: str | None = None
    """Field of responses, as of dumped samples: each gives a state without it, and one at each
    `cut`; None takes each row as one state."""
    cut: str = Field(default="\n\n", min_length=1, max_length=10_000)
    """Text behind which a state begins: a blank line, or what begins an assistant's turn."""
    max_batch_sequences: Count = 512
    """Sequences that are generated together, and then saved."""


class PivotsConfig(Settings):
    """`megatron-stare pivots`: the states of a data set whose continuations vary."""

    run: RunConfig = RunConfig()
    model: ModelConfig
    data: DataConfig
    reward: RewardConfig = RewardConfig()
    pivots: PivotsSection
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _states_are_of_one_file(self) -> PivotsConfig:
        if self.data.sources:
            raise ValueError(
                f"data.sources=[{', '.join(self.data.sources)}]: what is kept are rows of one, "
                "expected data.path"
            )
        return self
