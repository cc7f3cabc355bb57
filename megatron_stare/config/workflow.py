"""How a policy and its tools take turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from megatron_stare.algorithms.hooks import Component
from megatron_stare.algorithms.needs import ROLES, TURN_REWARDS, TURNS
from megatron_stare.config.agent import AgentConfig
from megatron_stare.config.algorithm import Pattern
from megatron_stare.config.data import DataConfig, WorkedDataConfig
from megatron_stare.config.gains import TurnGainsConfig
from megatron_stare.config.tools import ToolsConfig
from megatron_stare.system.settings import Settings
from megatron_stare.system.values import Count, Seconds


class TurnsConfig(Settings):
    """Limits of an episode with tools; `max_response_tokens` is that of all its turns together."""

    max_turns: Count = 8
    """Turns of the model; in the last one it has no tools."""
    max_calls: Count = 32
    """Calls of tools; when they are made, the turn after them is the last."""
    max_turn_tokens: Count | None = None
    """Tokens of a turn of the model, which ends the episode there; None is no limit of its own."""
    max_observation_tokens: int = Field(default=512, ge=16, le=1_000_000_000)
    """Of what one call gives; of more, the middle is left out."""
    max_seconds: Seconds | None = None
    """Seconds of generation and of tools after which no further turn begins."""
    reminder: bool = False
    """Have the model read, behind each observation, how many turns it has left."""
    first_turns: Count | None = None
    """Turns that it is reminded of at first; None reminds of `max_turns`."""
    extension: Count = 4
    """Turns that it is granted whenever it has taken those, up to `max_turns`."""

    def left(self, num_taken: int) -> int:
        """Turns that the model is reminded of behind so many.

        >>> limits = TurnsConfig(max_turns=8, reminder=True, first_turns=3, extension=4)
        >>> [limits.left(taken) for taken in range(1, 9)]
        [2, 1, 4, 3, 2, 1, 1, 0]
        """
        limit = self.max_turns if self.first_turns is None else self.first_turns
        if num_taken >= limit:
            limit += self.extension * ((num_taken - limit) // self.extension + 1)
        return min(limit, self.max_turns) - num_taken

    @model_validator(mode="after")
    def _first_turns_are_reminded_of(self) -> TurnsConfig:
        if self.first_turns is None:
            return self
        if not self.reminder or self.first_turns > self.max_turns:
            raise ValueError(
                f"first_turns={self.first_turns} with reminder={str(self.reminder).lower()}, "
                f"max_turns={self.max_turns}: the model is reminded of them, expected "
                "reminder=true and at most max_turns"
            )
        return self


class WorkflowConfig(Settings):
    """Turns of a policy that calls `tools.names`, acts in environments of `data.sources`, or is the
    model of an agent of your own."""

    agent: AgentConfig = AgentConfig()
    """Plays the episodes, where it has a function."""

    format: Literal["hermes", "fenced_python", "code_tag"] | None = None
    """How calls are written: `hermes` is JSON in <tool_call>, by the chat template; the other two
    are code in the middle of a response, in a fence or in <code>, for one tool that takes `code`.
    None plays single turns."""
    max_parallel_calls: Count = 8
    """Calls of one turn; the model is told that those beyond were not made."""
    answer_pattern: Pattern | None = None
    r"""Regular expression that is found in every answer, such as \\boxed: a turn with neither an
    answer nor a call is void. None takes every turn without a call for an answer."""
    void: Literal["mask", "penalise", "notice"] = "mask"
    """Of a void turn: it ends the sample, of which nothing is learned though its reward counts
    (`mask`), or which is judged like any answer (`penalise`); or the model is told (`notice`)."""
    max_attempts: Count = 3
    """Tries of a call, of an environment's step, or of an agent, that fails for a reason that is
    not the model's; then the sample is left out."""

    @model_validator(mode="after")
    def _void_turns_can_be_told(self) -> WorkflowConfig:
        if self.void == "notice" and self.format not in ("hermes", None):
            raise ValueError(
                f"void='notice' with format={self.format!r}: nothing can follow the end of a "
                "response, expected 'mask' or 'penalise', or format 'hermes'"
            )
        return self


def check_workflow(
    workflow: WorkflowConfig,
    tools: ToolsConfig,
    data: Mapping[str, DataConfig] | Mapping[str, WorkedDataConfig],
) -> None:
    """See that what plays is there, the one or the other, and that prompts can tell of it.

    Args:
        data: what is asked, by its key.

    Raises:
        ValueError: they are not.
    """
    if (workflow.format is None) != (not tools.names):
        raise ValueError(
            f"workflow.format={workflow.format} with tools.names=[{', '.join(tools.names)}]: tools "
            "are called in a format, expected both, or neither"
        )
    if workflow.agent.function is not None:
        _check_agent(workflow, data)
    for key, one in data.items():
        sources = one.sources if isinstance(one, DataConfig) else {}
        for name, source in sources.items():
            if source.environment and workflow.format is not None:
                raise ValueError(
                    f"workflow.format={workflow.format!r} with {key}.sources.{name}.environment: "
                    "a run calls tools, or acts in environments; expected the one or the other"
                )
            if source.environment and one.template != "chat":
                raise ValueError(
                    f"{key}.sources.{name}.environment with {key}.template={one.template!r}: the "
                    "chat template writes what environments say, expected 'chat'"
                )
        if workflow.format == "hermes" and one.template != "chat":
            raise ValueError(
                f"workflow.format='hermes' with {key}.template={one.template!r}: the chat template "
                "tells of tools, expected 'chat'"
            )


def _check_agent(
    workflow: WorkflowConfig, data: Mapping[str, DataConfig] | Mapping[str, WorkedDataConfig]
) -> None:
    name = f"workflow.agent.function={workflow.agent.function}"
    if workflow.format is not None:
        raise ValueError(
            f"{name} with workflow.format={workflow.format!r}: an agent calls its own tools, "
            "expected format null"
        )
    for key, one in data.items():
        sources = one.sources if isinstance(one, DataConfig) else {}
        if named := [name for name, source in sources.items() if source.environment]:
            raise ValueError(
                f"{name} with {key}.sources.{named[0]}.environment: an agent plays by itself, "
                "expected the one or the other"
            )
        if one.template != "{prompt}" or getattr(one, "system_prompt", None) is not None:
            raise ValueError(
                f"{name} with {key}.template={one.template!r}: an agent is given the problem as it "
                "is and asks in its own words, expected '{prompt}', and no system_prompt"
            )


def check_turn_gains(
    gains: TurnGainsConfig,
    parts: Mapping[str, Component],
    workflow: WorkflowConfig,
    data: DataConfig,
) -> None:
    """See that turns can gain something, and that a part of the run's method reads it.

    Raises:
        ValueError: they cannot, or none does.
    """
    if gains.of is None:
        return
    key = f"rollout.turn_gains.of={gains.of!r}"
    for name, source in data.sources.items():
        if source.environment:
            raise ValueError(
                f"{key} with data.sources.{name}.environment: an environment says itself what "
                "turns earn, expected the one or the other"
            )
    if workflow.format is None and (gains.of == "next_turn" or workflow.agent.function is None):
        raise ValueError(
            f"{key} with workflow.format=null: expected a format, in which turns call tools"
            + (", or an agent" if gains.of == "answer" else "")
        )
    if not any(TURN_REWARDS in part.needs for part in parts.values()):
        raise ValueError(
            f"{key}: no part of the method reads {TURN_REWARDS.name}, expected one that does "
            "(docs/methods.md), or null"
        )


def check_parts_of_turns(
    parts: Mapping[str, Component],
    workflow: WorkflowConfig,
    data: DataConfig,
    gains: TurnGainsConfig,
) -> None:
    """See that samples which a run makes say of their turns what parts of its method read.

    Whether environments have roles they say themselves.

    Raises:
        ValueError: they do not.
    """
    if any(source.environment for source in data.sources.values()):
        return
    missing = {ROLES} if gains.of else {TURN_REWARDS, ROLES}
    for name, part in parts.items():
        for need in sorted(part.needs & missing, key=lambda need: need.name):
            by_gains = ", or with rollout.turn_gains" if need is TURN_REWARDS else ""
            raise ValueError(
                f"algorithm.{name} reads {need.name}, which no environment of data.sources "
                "gives: it runs in environments, on recorded samples (rollout.engine='replay') and "
                f"on lists (megatron_stare.algorithms.offline){by_gains}"
            )
        if TURNS in part.needs and workflow.format is None and workflow.agent.function is None:
            raise ValueError(
                f"algorithm.{name} reads turns with workflow.format=null: every sample is a "
                "single one, expected a format of calls, environments of data.sources, an "
                "agent, or recorded turns (rollout.engine='replay')"
            )
