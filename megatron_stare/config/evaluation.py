"""Held-out problems: one set of them or several, each with sampling of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from megatron_stare.config.algorithm import RewardConfig
from megatron_stare.config.data import DataConfig, SourceName
from megatron_stare.config.environments import EnvironmentsConfig
from megatron_stare.config.policy import ModelConfig
from megatron_stare.config.rollout import EngineConfig, SamplingConfig, Temperature
from megatron_stare.config.run import LogConfig, RunConfig
from megatron_stare.config.tools import ToolsConfig
from megatron_stare.config.workflow import TurnsConfig, WorkflowConfig, check_workflow
from megatron_stare.system.settings import Settings
from megatron_stare.system.values import BatchCount, Count, CountOrZero, Share


class AskedConfig(SamplingConfig):
    """How held-out problems are asked."""

    samples_per_prompt: BatchCount = 1
    """k of avg@k; pass@k is reported for 1, 2, 4, ... k."""
    max_prompts: Count | None = None
    """Use the first problems only."""


class HeldOutConfig(AskedConfig):
    """A set of problems, and how it is asked."""

    data: DataConfig


class EvalSetConfig(Settings):
    """One of several sets; what it does not say is as in `eval`."""

    data: DataConfig
    """Problems."""
    temperature: Temperature | None = None
    """Divides the logits; None is `eval.temperature`."""
    top_p: Share | None = None
    """Nucleus sampling; None is `eval.top_p`."""
    top_k: CountOrZero | None = None
    """Keep the k likeliest tokens, 0 keeps all; None is `eval.top_k`."""
    max_response_tokens: Count | None = None
    """Length limit of a response; None is `eval.max_response_tokens`."""
    turns: TurnsConfig | None = None
    """Further limits of several turns; None is `eval.turns`."""
    samples_per_prompt: BatchCount | None = None
    """k of avg@k; None is `eval.samples_per_prompt`."""
    max_prompts: Count | None = None
    """Use the first problems only; None is `eval.max_prompts`."""


class EvalSection(AskedConfig):
    """Held-out evaluation."""

    data: DataConfig | None = None
    """Problems of a single set; None, without `sets`, evaluates nothing."""
    sets: dict[SourceName, EvalSetConfig] = Field(default={})
    """Or several sets by name, each with settings of its own (docs/evaluate.md)."""
    every: CountOrZero = 0
    """Steps between evaluations; 0 evaluates at the start and end only."""
    asynchronous: bool = False
    """In training, evaluate while the next batch is generated and trained on; engine `sglang`."""

    @property
    def parts(self) -> dict[str, HeldOutConfig]:
        """What is asked, by set; under an empty name where there is a single one."""
        asked = {name: getattr(self, name) for name in AskedConfig.model_fields}
        if self.data is not None:
            return {"": HeldOutConfig(**asked, data=self.data)}
        sets = {}
        for name, one in self.sets.items():
            said = {key: getattr(one, key) for key in type(one).model_fields}
            own = {key: value for key, value in said.items() if value is not None}
            sets[name] = HeldOutConfig(**(asked | own))
        return sets

    @property
    def data_by_key(self) -> dict[str, DataConfig]:
        """The problems, by the keys of the config that name them."""
        return {f"{key_of(name)}.data": one.data for name, one in self.parts.items()}

    @model_validator(mode="after")
    def _is_one_set_or_several(self) -> EvalSection:
        if self.data is not None and self.sets:
            raise ValueError(
                f"data with sets [{', '.join(self.sets)}]: expected the one or the other; a "
                "further set has a name too, sets.NAME.data"
            )
        if self.every and not self.parts:
            raise ValueError(
                f"every={self.every} without data or sets: nothing would be evaluated, expected "
                "problems, or 0"
            )
        return self


def key_of(name: str) -> str:
    """The section that a set stands in; that of a single set, without a name, is `eval`."""
    return f"eval.sets.{name}" if name else "eval"


class FolderConfig(Settings):
    """What samples of a Hugging Face folder depend on, besides the problems."""

    run: RunConfig = RunConfig()
    model: ModelConfig
    rollout: EngineConfig = EngineConfig()
    reward: RewardConfig = RewardConfig()
    workflow: WorkflowConfig = WorkflowConfig()
    tools: ToolsConfig = ToolsConfig()
    environments: EnvironmentsConfig = EnvironmentsConfig()


class EvalConfig(FolderConfig):
    """`megatron-stare eval`: avg@k, pass@k and maj@k of a Hugging Face folder."""

    eval: EvalSection
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _problems_can_be_asked(self) -> EvalConfig:
        check_workflow(self.workflow, self.tools, self.eval.data_by_key)
        check_judges(self.eval.data_by_key, self.reward.kind)
        return self


def check_judges(data: Mapping[str, DataConfig], kind: str) -> None:
    """See that sources of one name have one judge, whatever set they are of.

    Args:
        data: what is asked, by its key.
        kind: what judges where a source says nothing.

    Raises:
        ValueError: they have not.
    """
    judges: dict[str, tuple[str, dict[str, Any]]] = {}
    for key, one in data.items():
        for name, source in one.sources.items():
            judge = {
                "environment": source.environment,
                "verifier": source.verifier_or(kind),
                "right_at": source.threshold,
            }
            where, other = judges.setdefault(name, (key, judge))
            for what, found in judge.items():
                if found != other[what]:
                    raise ValueError(
                        f"{where}.sources.{name}.{what} is {other[what]}, {key}.sources.{name}."
                        f"{what} is {found}: expected one, for sources of one name"
                    )
