"""The config of `megatron-stare sft`."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import model_validator

from megatron_stare.algorithms.hooks import Need
from megatron_stare.config.data import SftDataConfig, WorkedDataConfig
from megatron_stare.config.policy import ModelConfig, OptimConfig, ParallelConfig, padded_length
from megatron_stare.config.run import CheckpointConfig, LogConfig, ResumableRunConfig, check_apart
from megatron_stare.config.slurm import SlurmConfig
from megatron_stare.config.tools import ToolsConfig
from megatron_stare.config.workflow import WorkflowConfig, check_workflow
from megatron_stare.system.settings import Settings
from megatron_stare.system.values import BatchCount, Count


class SftSection(Settings):
    """The supervised loop."""

    steps: Count = 100
    """Optimizer steps."""
    examples_per_step: BatchCount = 64
    """Examples in the global batch."""
    max_tokens_per_micro_batch: Count = 8192
    """Token budget of a packed micro-batch on one data-parallel rank."""
    max_bad_updates: Count = 3
    """Updates with a non-finite loss or gradient in a row, each skipped, before the run stops."""
    updates_per_step: ClassVar[int] = 1
    keep_graph: ClassVar[str] = "never"


class SftConfig(Settings):
    """`megatron-stare sft`: packed supervised fine-tuning."""

    run: ResumableRunConfig = ResumableRunConfig()
    model: ModelConfig
    parallel: ParallelConfig = ParallelConfig()
    data: SftDataConfig
    workflow: WorkflowConfig = WorkflowConfig()
    tools: ToolsConfig = ToolsConfig()
    optim: OptimConfig = OptimConfig()
    sft: SftSection = SftSection()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    slurm: SlurmConfig = SlurmConfig()
    command: ClassVar[str] = "sft"
    needs: ClassVar[frozenset[Need[Any]]] = frozenset()
    passes: ClassVar[int] = 1
    is_evaluated: ClassVar[bool] = False

    @property
    def loop(self) -> SftSection:
        """The section of its loop."""
        return self.sft

    @property
    def sets(self) -> dict[str, SftDataConfig]:
        """The sets that it reads, by key."""
        return {"data": self.data}

    @model_validator(mode="after")
    def _an_example_fits_a_micro_batch(self) -> SftConfig:
        check_apart(self.run.dir, self.model.path)
        check_workflow(self.workflow, self.tools, self.sets)
        if self.data.messages_field is not None and self.workflow.format is None:
            raise ValueError(
                f"data.messages_field={self.data.messages_field!r} with workflow.format=null: "
                "conversations are read as episodes, expected a format"
            )
        budget = self.sft.max_tokens_per_micro_batch
        check_row_fits("data.max_tokens", self.data, self.parallel, "sft", budget)
        return self


def check_row_fits(
    key: str, data: WorkedDataConfig, parallel: ParallelConfig, command: str, max_tokens: int
) -> None:
    """See that the longest prompt with a response fits into a micro-batch.

    Raises:
        ValueError: it does not.
    """
    if padded_length(data.max_tokens, parallel.context) > max_tokens:
        raise ValueError(
            f"{key}={parallel.explain_padded(data.max_tokens)} exceeds "
            f"{command}.max_tokens_per_micro_batch={max_tokens}"
        )
