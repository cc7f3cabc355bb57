"""Everything that shapes a run, typed: the config of each command, by sections.

A run is a YAML file of differences from these defaults plus dotted overrides (`optim.lr=1e-6`).
Unknown keys, wrong types and impossible combinations stop the run here, with a `ConfigError` that
names the key, the value and what was expected. Checks that need the model's shape are in
`weights/hf_config.py`, those that need the world size in `launch/topology.py`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from megatron_stare.algorithms.config import AlgorithmConfig
from megatron_stare.algorithms.hooks import Need
from megatron_stare.algorithms.needs import DEMONSTRATED, GUIDED, OLD, UNMADE, UNTRUNCATED
from megatron_stare.algorithms.renamed import renamed
from megatron_stare.algorithms.table import LINKS
from megatron_stare.config.algorithm import RewardConfig
from megatron_stare.config.data import DataConfig
from megatron_stare.config.environments import EnvironmentsConfig
from megatron_stare.config.evaluation import EvalSection, check_judges
from megatron_stare.config.policy import ModelConfig, OptimConfig, ParallelConfig, padded_length
from megatron_stare.config.rollout import RolloutConfig
from megatron_stare.config.run import (
    CheckpointConfig,
    LogConfig,
    ResumableRunConfig,
    check_apart,
)
from megatron_stare.config.slurm import TrainSlurmConfig
from megatron_stare.config.tools import ToolsConfig
from megatron_stare.config.workflow import (
    WorkflowConfig,
    check_parts_of_turns,
    check_turn_gains,
    check_workflow,
)
from megatron_stare.system.settings import Settings
from megatron_stare.system.values import Count, CountOrZero


class TrainSection(Settings):
    """The loop."""

    steps: Count = 100
    """Steps; one batch of rollouts each."""
    updates_per_step: Count = 1
    """Optimizer updates per batch: 1 is on-policy, more split the batch by groups."""
    max_tokens_per_micro_batch: Count = 8192
    """Token budget of a packed micro-batch on one data-parallel rank."""
    keep_graph: Literal["auto", "never", "always"] = "auto"
    """Where a method scores a batch before its loss: go forward once for both, and hold the graphs
    of the first update's micro-batches meanwhile; auto does if all fit. The same bits."""
    save_every: CountOrZero = 0
    """Steps between saved Hugging Face folders; 0 saves at the end only."""
    max_bad_updates: Count = 3
    """Updates with a non-finite loss or gradient in a row, each skipped, before the run stops."""


class TrainConfig(Settings):
    """`megatron-stare train`: reinforcement learning of a policy.

    >>> config = TrainConfig(model={"path": "m"}, data={"path": "d.jsonl"})
    >>> config.rollout.prompts_per_step, config.rollout.samples_per_prompt
    (64, 8)
    """

    run: ResumableRunConfig = ResumableRunConfig()
    model: ModelConfig
    parallel: ParallelConfig = ParallelConfig()
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    workflow: WorkflowConfig = WorkflowConfig()
    tools: ToolsConfig = ToolsConfig()
    environments: EnvironmentsConfig = EnvironmentsConfig()
    reward: RewardConfig = RewardConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainSection = TrainSection()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalSection = EvalSection()
    log: LogConfig = LogConfig()
    slurm: TrainSlurmConfig = TrainSlurmConfig()
    command: ClassVar[str] = "train"

    @model_validator(mode="before")
    @classmethod
    def _in_todays_words(cls, tree: Any) -> Any:
        return renamed(tree)

    @property
    def data_by_key(self) -> dict[str, DataConfig]:
        """What is asked: to train on, and held out."""
        return {"data": self.data, **self.eval.data_by_key}

    @property
    def needs(self) -> frozenset[Need[Any]]:
        """What is measured of every batch before its updates."""
        # Later updates compare with the policy before the first.
        return self.algorithm.needs | ({OLD} if self.updates_per_step > 1 else set())

    @property
    def loop(self) -> TrainSection:
        """The section of its loop."""
        return self.train

    @property
    def passes(self) -> int:
        """How often a step's batch is gone through."""
        return self.algorithm.passes

    @property
    def updates_per_step(self) -> int:
        """Optimizer updates of a step, of a method whose batches do not decide how many."""
        return self.train.updates_per_step * self.passes

    @property
    def is_evaluated(self) -> bool:
        """Whether there is held-out data."""
        return bool(self.eval.parts)

    @model_validator(mode="after")
    def _older_tokens_are_corrected(self) -> TrainConfig:
        if self.rollout.is_off_policy or self.algorithm.replays:  # Frozen, for everyone after this.
            object.__setattr__(self, "algorithm", self.algorithm.corrected())
        return self

    @model_validator(mode="after")
    def _makes_advantages(self) -> TrainConfig:
        links = self.algorithm.links
        kinds = [type(link) for link in links.values()]
        # Only of those of the table is it known.
        if not any(kind.makes_advantages or kind not in LINKS.values() for kind in kinds):
            raise ValueError(
                f"algorithm.links=[{', '.join(links)}]: none of them makes advantages, so that "
                "every one is 0 and nothing is learned; expected a baseline before them, that of "
                "another method's links (`megatron-stare methods`)"
            )
        return self

    @model_validator(mode="after")
    def _groups_may_grow(self) -> TrainConfig:
        rollout, budget = self.rollout, self.algorithm.first_drawing.budget
        if budget is not None and rollout.oversampling > 1:
            raise ValueError(
                "the method draws samples of a prompt one after another, with "
                f"rollout.oversampling={rollout.oversampling:g}: expected 1, as no group is to be "
                "stopped while others grow"
            )
        return self

    @model_validator(mode="after")
    def _demonstrations_are_there(self) -> TrainConfig:
        parts = self.algorithm.parts.items()
        learned = frozenset().union(*(term.needs for term in self.algorithm.loss_terms))
        for name, part in self.algorithm.filters.items():
            if GUIDED in part.needs - learned:
                raise ValueError(
                    f"algorithm.{name} puts guides in the place of groups, and no term learns from "
                    "them: expected guide_gradient among algorithm.terms"
                )
        for name in [name for name, part in parts if part.needs & {DEMONSTRATED, GUIDED}]:
            if not any(part.demonstration_field for part in self.data.parts.values()):
                raise ValueError(
                    f"algorithm.{name} has nothing to fall back to with "
                    "data.demonstration_field=null, expected the field of worked responses"
                )
            if not self.rollout.dynamic_sampling:
                raise ValueError(
                    f"algorithm.{name} with rollout.dynamic_sampling=false: no group is looked at, "
                    "and none falls back to its demonstration; expected true"
                )
        return self

    @model_validator(mode="after")
    def _groups_are_looked_at(self) -> TrainConfig:
        for name, part in self.algorithm.filters.items():
            if part.replays and not self.rollout.dynamic_sampling:
                raise ValueError(
                    f"algorithm.{name} with rollout.dynamic_sampling=false: no group is looked at, "
                    "and no past sample would join one; expected true"
                )
        return self

    @model_validator(mode="after")
    def _turns_are_there(self) -> TrainConfig:
        parts, gains = self.algorithm.parts, self.rollout.turn_gains
        if self.rollout.engine != "replay":  # What was recorded is seen step by step.
            check_turn_gains(gains, parts, self.workflow, self.data)
            check_parts_of_turns(parts, self.workflow, self.data, gains)
        elif gains.of is not None:
            raise ValueError(
                f"rollout.turn_gains.of={gains.of!r} with rollout.engine='replay': turns earn what "
                "was recorded, expected null"
            )
        return self

    @model_validator(mode="after")
    def _evaluation_can_be_beside(self) -> TrainConfig:
        rollout = self.rollout
        own = {
            "rollout.engine": (rollout.engine, "sglang"),
            "rollout.colocated": (rollout.colocated, False),
            # What is stopped of a batch is stopped on the whole server.
            "rollout.oversampling": (rollout.oversampling, 1),
            "workflow.format": (self.workflow.format, None),
            "workflow.agent.function": (self.workflow.agent.function, None),
        }
        for key, (found, expected) in own.items():
            if self.eval.asynchronous and found != expected:
                raise ValueError(
                    f"eval.asynchronous=true with {key}={found}: nothing can be asked beside a "
                    f"batch there, expected {'null' if expected is None else expected}, or false"
                )
        if self.eval.asynchronous and any(
            source.environment
            for one in self.data_by_key.values()
            for source in one.sources.values()
        ):
            raise ValueError(
                "eval.asynchronous=true with environments among the sources: their processes serve "
                "a batch at a time, expected false"
            )
        return self

    @model_validator(mode="after")
    def _fields_fit_together(self) -> TrainConfig:
        check_apart(self.run.dir, self.model.path)
        check_workflow(self.workflow, self.tools, self.data_by_key)
        check_judges(self.data_by_key, self.reward.kind)
        rollout, updates = self.rollout, self.train.updates_per_step
        if rollout.prompts_per_step % updates:
            raise ValueError(
                f"train.updates_per_step={updates} does not divide "
                f"rollout.prompts_per_step={rollout.prompts_per_step}"
            )
        if self.train.keep_graph == "always" and self.parallel.pipeline > 1:
            raise ValueError(
                f"train.keep_graph=always with parallel.pipeline={self.parallel.pipeline}: a "
                "pipeline's schedule goes backward in its own order, expected auto or never"
            )
        is_truncated = rollout.top_p < 1 or rollout.top_k > 0
        for name, link in self.algorithm.links.items():
            for need in link.needs & UNMADE:
                raise ValueError(
                    f"algorithm.{name} reads {need.name}, which no rollout makes yet: it runs on "
                    "lists (megatron_stare.algorithms.offline), take it out of algorithm.links"
                )
            if UNTRUNCATED in link.needs and is_truncated:
                raise ValueError(
                    f"algorithm.{name} measures entropy by the engine's log-probs, with "
                    f"rollout.top_p={rollout.top_p}, rollout.top_k={rollout.top_k}: truncated "
                    "sampling renormalises them, so that their mean is no estimate of it; use "
                    "top_p=1 and top_k=0, or the policy's own log-probs"
                )
        longest = self.data.max_prompt_tokens + rollout.max_response_tokens
        if padded_length(longest, self.parallel.context) > self.train.max_tokens_per_micro_batch:
            raise ValueError(
                f"train.max_tokens_per_micro_batch={self.train.max_tokens_per_micro_batch} cannot "
                "hold one sample of data.max_prompt_tokens + rollout.max_response_tokens = "
                f"{self.parallel.explain_padded(longest)}"
            )
        if self.reward.overlong_buffer_tokens > rollout.max_response_tokens:
            raise ValueError(
                f"reward.overlong_buffer_tokens={self.reward.overlong_buffer_tokens} exceeds "
                f"rollout.max_response_tokens={rollout.max_response_tokens}"
            )
        return self
