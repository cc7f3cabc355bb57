"""The config of `megatron-stare prefer`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator

from megatron_stare.algorithms.hooks import Need
from megatron_stare.algorithms.preference import PreferenceAlgorithm
from megatron_stare.config.data import PairDataConfig
from megatron_stare.config.policy import ModelConfig, OptimConfig, ParallelConfig
from megatron_stare.config.run import CheckpointConfig, LogConfig, ResumableRunConfig, check_apart
from megatron_stare.config.sft import check_row_fits
from megatron_stare.config.slurm import SlurmConfig
from megatron_stare.system.settings import Settings
from megatron_stare.system.values import BatchCount, Count, CountOrZero


class PreferSection(Settings):
    """The loop over pairs."""

    steps: Count = 100
    """Steps; one optimizer update on one batch of pairs each."""
    pairs_per_step: BatchCount = 32
    """Pairs in the global batch."""
    max_tokens_per_micro_batch: Count = 8192
    """Token budget of a packed micro-batch on one data-parallel rank; a pair may be in two."""
    max_bad_updates: Count = 3
    """Updates with a non-finite loss or gradient in a row, each skipped, before the run stops."""
    updates_per_step: ClassVar[int] = 1
    keep_graph: ClassVar[str] = "auto"


class PreferEvalSection(Settings):
    """Held-out pairs."""

    data: PairDataConfig | None = None
    """Pairs that are compared and not learned from; None evaluates nothing."""
    every: CountOrZero = 0
    """Steps between evaluations; 0 evaluates at the start and end only."""


class PreferConfig(Settings):
    """`megatron-stare prefer`: learning from pairs of a better and a worse response."""

    run: ResumableRunConfig = ResumableRunConfig()
    model: ModelConfig
    parallel: ParallelConfig = ParallelConfig()
    data: PairDataConfig
    algorithm: PreferenceAlgorithm = PreferenceAlgorithm()
    optim: OptimConfig = OptimConfig()
    prefer: PreferSection = PreferSection()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: PreferEvalSection = PreferEvalSection()
    log: LogConfig = LogConfig()
    slurm: SlurmConfig = SlurmConfig()
    command: ClassVar[str] = "prefer"
    passes: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """What is measured of every batch before its update."""
        return self.algorithm.needs

    @property
    def loop(self) -> PreferSection:
        """The section of its loop."""
        return self.prefer

    @property
    def is_evaluated(self) -> bool:
        """Whether there are held-out pairs."""
        return self.eval.data is not None

    @property
    def sets(self) -> dict[str, PairDataConfig]:
        """The sets that it reads, by key."""
        given = {"data": self.data, "eval.data": self.eval.data}
        return {key: data for key, data in given.items() if data is not None}

    @model_validator(mode="after")
    def _fields_fit_together(self) -> PreferConfig:
        check_apart(self.run.dir, self.model.path)
        budget = self.prefer.max_tokens_per_micro_batch
        for key, data in self.sets.items():
            check_row_fits(f"{key}.max_tokens", data, self.parallel, "prefer", budget)
        if self.eval.every and self.eval.data is None:
            raise ValueError(
                f"eval.every={self.eval.every} without eval.data: nothing would be evaluated, "
                "expected pairs, or 0"
            )
        return self
