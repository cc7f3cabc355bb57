"""The side of a run that rank 0 holds alone: prompts, engine, verifiers, sample dumps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from megatron_stare.config import EvalConfig, TrainConfig
from megatron_stare.data.prompts import PromptSet
from megatron_stare.data.tokenizer import load_tokenizer
from megatron_stare.errors import UserError
from megatron_stare.evaluate import evaluate
from megatron_stare.observe.loggers import Loggers
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.rollout.dump import dump_samples
from megatron_stare.rollout.embedded import EmbeddedEngine
from megatron_stare.rollout.engine import Engine
from megatron_stare.rollout.replay import ReplayEngine
from megatron_stare.rollout.sampler import Rollout, Sampler
from megatron_stare.types import Prompt
from megatron_stare.weights.hf_config import ModelShape


@dataclass(slots=True)
class RolloutSide:
    """Engine and verifiers, and what they work on. `held_out` is empty where none is given."""

    config: TrainConfig
    loggers: Loggers
    engine: Engine
    scorer: Scorer
    prompts: PromptSet
    held_out: list[Prompt]

    def collect(self, step: int) -> Rollout:
        """The groups of a step; shows how many are done."""
        config = self.config.rollout
        num_samples = config.prompts_per_step * config.samples_per_prompt
        with self.loggers.progress.phase("generate", num_samples) as advance:
            sampler = Sampler(
                self.prompts,
                self.engine,
                self.scorer,
                config,
                seed=self.config.run.seed,
                on_progress=advance,
            )
            return sampler.collect(step)
