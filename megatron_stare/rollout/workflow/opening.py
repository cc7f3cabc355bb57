"""A workflow and its tools, from their config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from megatron_stare.config.tools import ToolsConfig
from megatron_stare.config.workflow import WorkflowConfig
from megatron_stare.errors import UserError
from megatron_stare.rollout.workflow.formats import Hermes, WritableFormat, code_tag, fenced_python
from megatron_stare.rollout.workflow.tool_use import ToolUse
from megatron_stare.rollout.workflow.toolbox import Toolbox
from megatron_stare.tools.table import make_tools

_OF_CODE = {"fenced_python": fenced_python, "code_tag": code_tag}


def open_tools(
    tools: ToolsConfig, workflow: WorkflowConfig, report: Callable[[str], None]
) -> Toolbox:
    """The tools of a run, ready.

    Raises:
        UserError: one cannot be had, cannot work here, or does not take what the format gives.
    """
    toolbox = find_tools(tools, workflow, report)
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


def tool_use(
    config: WorkflowConfig,
    toolbox: Toolbox,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Sequence[int],
) -> ToolUse | None:
    """The workflow of tools; None where there is none, and all turns are single.

    Raises:
        UserError: the tokenizer or its chat template is not one for the format.
    """
    if config.format is None:
        return None
    written = make_format(config, toolbox, tokenizer, stop_ids)
    return ToolUse(config, tokenizer, written, toolbox.names, tuple(stop_ids))


def make_format(
    config: WorkflowConfig,
    toolbox: Toolbox,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Sequence[int],
) -> WritableFormat:
    """How calls are written.

    Raises:
        UserError: the tokenizer or its chat template is not one for the format.
    """
    if config.format in _OF_CODE:
        return _OF_CODE[config.format](tokenizer, *toolbox.names)
    hermes = Hermes(tokenizer, toolbox.schemas)
    if hermes.turn_end not in stop_ids:
        end = tokenizer.convert_ids_to_tokens(hermes.turn_end)
        raise UserError(
            f"workflow.format='hermes': the chat template ends turns with {end}, at which no "
            f"response ends, expected one of {list(stop_ids)}"
        )
    return hermes


def _check_takes_code(toolbox: Toolbox, written: str) -> None:
    arguments = [schema["function"]["parameters"]["properties"] for schema in toolbox.schemas]
    if len(arguments) != 1 or "code" not in arguments[0]:
        raise UserError(
            f"workflow.format={written!r} with tools.names=[{', '.join(toolbox.names)}]: expected "
            "one tool, which takes `code`"
        )
