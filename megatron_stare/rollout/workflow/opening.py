"""A workflow and its tools or environments, from their config."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from megatron_stare.config.data import DataConfig
from megatron_stare.config.environments import EnvironmentsConfig
from megatron_stare.config.gains import TurnGainsConfig
from megatron_stare.config.tools import ToolsConfig
from megatron_stare.config.workflow import WorkflowConfig
from megatron_stare.data.replies import reply_form
from megatron_stare.engines.engine import ContinuingEngine, Engine
from megatron_stare.environments.acting import Acting
from megatron_stare.errors import UserError
from megatron_stare.rollout.agents.chat_form import ChatForm
from megatron_stare.rollout.agents.playing import AgentEngine
from megatron_stare.rollout.workflow.formats import Hermes, WritableFormat, code_tag, fenced_python
from megatron_stare.rollout.workflow.gains import GainingEngine, gains_of
from megatron_stare.rollout.workflow.in_environment import InEnvironment
from megatron_stare.rollout.workflow.playing import PlayingEngine
from megatron_stare.rollout.workflow.tool_use import ToolUse
from megatron_stare.rollout.workflow.toolbox import Toolbox
from megatron_stare.rollout.workflow.workflow import Workflow
from megatron_stare.tools.table import make_tools

_OF_CODE = {"fenced_python": fenced_python, "code_tag": code_tag}


def environments_of(
    config: EnvironmentsConfig, workflow: WorkflowConfig, data: Mapping[str, DataConfig]
) -> Acting | None:
    """The environments of a run, which begin with `open_tools`; None where it has none.

    Args:
        data: what is asked, by its key.
    """
    sources = {
        name: (f"{key}.sources.{name}", source)
        for key, one in data.items()
        for name, source in one.sources.items()
        if source.environment
    }
    return Acting(config, sources, max_attempts=workflow.max_attempts) if sources else None


def open_tools(
    tools: ToolsConfig,
    workflow: WorkflowConfig,
    acting: Acting | None,
    report: Callable[[str], None],
) -> Toolbox:
    """The tools of a run, or its environments, ready.

    Raises:
        UserError: one cannot be had, cannot work here, or does not take what the format gives.
    """
    if acting is None:
        toolbox = find_tools(tools, workflow, report)
    else:  # A step is tried again by its processes.
        played = {acting.name: acting}
        toolbox = Toolbox(played, deadline_s=tools.deadline_s, max_attempts=1, report=report)
    toolbox.start()
    return toolbox


def find_tools(
    tools: ToolsConfig, workflow: WorkflowConfig, report: Callable[[str], None]
) -> Toolbox:
    """The tools of a run, of which only names and schemas are needed yet.

    Raises:
        UserError: one cannot be had, or does not take what the format gives.
    """
    toolbox = Toolbox(
        make_tools(tools),
        deadline_s=tools.deadline_s,
        max_attempts=workflow.max_attempts,
        report=report,
    )
    if workflow.format in _OF_CODE:
        _check_takes_code(toolbox, workflow.format)
    return toolbox


def prompt_tools(workflow: WorkflowConfig, toolbox: Toolbox) -> Sequence[dict[str, Any]]:
    """What the chat template is to write of tools: of code in a response, nothing."""
    return toolbox.schemas if workflow.format == "hermes" else ()


def workflow_of(
    config: WorkflowConfig,
    toolbox: Toolbox,
    acting: Acting | None,
    tokenizer: PreTrainedTokenizerFast,
    stop_ids: Sequence[int],
) -> Workflow | None:
    """What plays; None where there is nothing, and all turns are single.

    Raises:
        UserError: the tokenizer or its chat template is not one for it.
    """
    if acting is not None:
        form = reply_form(tokenizer, (), "user")
        _check_ends(form.end, stop_ids, tokenizer, "an environment")
        return InEnvironment(acting.start_of, tokenizer, form, tuple(stop_ids))
    if config.format is None:
        return None
    written = make_format(config, toolbox, tokenizer, stop_ids)
    return ToolUse(config, tokenizer, written, toolbox.names, tuple(stop_ids))


def player_on(
    engine: ContinuingEngine,
    config: WorkflowConfig,
    workflow: Workflow | None,
    toolbox: Toolbox,
    chats: ChatForm | None,
    tokenizer: PreTrainedTokenizerFast,
    report: Callable[[str], None],
) -> Engine:
    """What plays episodes on an engine: agents, a workflow, or, of single turns, the engine.

    Args:
        workflow: of `workflow_of`.
        chats: of `chat_form_of`.

    Raises:
        UserError: there is no such agent, or its endpoint cannot listen.
    """
    if chats is not None:
        return AgentEngine(
            *(engine, config.agent, chats, tokenizer),
            max_attempts=config.max_attempts,
            report=report,
        )
    return engine if workflow is None else PlayingEngine(engine, workflow, toolbox)


def with_gains(
    player: Engine,
    engine: ContinuingEngine,
    config: TurnGainsConfig,
    workflow: WorkflowConfig,
    toolbox: Toolbox,
    tokenizer: PreTrainedTokenizerFast,
    stop_ids: Sequence[int],
) -> Engine:
    """The player, whose turns earn what the config says; `engine` is what it plays on."""
    written = make_format(workflow, toolbox, tokenizer, stop_ids) if workflow.format else None
    gains = gains_of(config, tokenizer, written)
    if gains is None:
        return player
    return GainingEngine(player, engine, gains, as_probability=config.as_probability)


def make_format(
    config: WorkflowConfig,
    toolbox: Toolbox,
    tokenizer: PreTrainedTokenizerFast,
    stop_ids: Sequence[int],
) -> WritableFormat:
    """How calls are written.

    Raises:
        UserError: the tokenizer or its chat template is not one for the format.
    """
    if config.format in _OF_CODE:
        return _OF_CODE[config.format](tokenizer, *toolbox.names)
    hermes = Hermes(tokenizer, toolbox.schemas)
    _check_ends(hermes.turn_end, stop_ids, tokenizer, "workflow.format='hermes'")
    return hermes


def _check_ends(
    end: int, stop_ids: Sequence[int], tokenizer: PreTrainedTokenizerFast, needed_by: str
) -> None:
    if end not in stop_ids:
        raise UserError(
            f"{needed_by}: the chat template ends turns with "
            f"{tokenizer.convert_ids_to_tokens(end)}, at which no response ends, expected one of "
            f"{list(stop_ids)}"
        )


def _check_takes_code(toolbox: Toolbox, written: str) -> None:
    arguments = [schema["function"]["parameters"]["properties"] for schema in toolbox.schemas]
    if len(arguments) != 1 or "code" not in arguments[0]:
        raise UserError(
            f"workflow.format={written!r} with tools.names=[{', '.join(toolbox.names)}]: expected "
            "one tool, which takes `code`"
        )
