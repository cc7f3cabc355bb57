"""`megatron-stare tools`: what a model may call, tried by hand; and which sandbox works here."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from pydantic import BaseModel, ConfigDict

from megatron_stare.commands.arguments import path
from megatron_stare.commands.of_config import key_table
from megatron_stare.config.tools import TOOLS, ToolsConfig
from megatron_stare.config_io import load_config
from megatron_stare.errors import UserError, printable

_OVERRIDE = re.compile(r"tools\.[a-z_.]+=.*", re.DOTALL)


class _ToolsFile(BaseModel):
    """The part of any config that is of tools."""

    model_config = ConfigDict(extra="ignore")
    tools: ToolsConfig = ToolsConfig()


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`tools [NAME [CALL]] [tools.key=value ...] [--check]`."""
    command.epilog = key_table(_ToolsFile, "tools")
    command.add_argument(
        "words",
        nargs="*",
        metavar="NAME [CALL] | tools.key=value",
        help=f"{', '.join(TOOLS)}, or package.module:name of your own; CALL is its argument, or a "
        "JSON object of several",
    )
    command.add_argument("--config", type=path, help="YAML file with a section `tools`")
    command.add_argument(
        "--check", action="store_true", help="which walls around a model's code work here"
    )
    command.set_defaults(run=_tools)


def _tools(arguments: argparse.Namespace) -> int:
    words = list(arguments.words)
    given = []
    while words and len(given) < 2 and not _OVERRIDE.fullmatch(words[0]):
        given.append(words.pop(0))
    overrides = [*words, *([f"tools.names=[{json.dumps(given[0])}]"] if given else [])]
    config = load_config(_ToolsFile, arguments.config, overrides).tools
    if arguments.check:
        return _check()
    if not given:
        config = config.model_copy(update={"names": tuple(dict.fromkeys([*TOOLS, *config.names]))})
    return _list(config) if not given else _use(config, *given[1:])


def _list(config: ToolsConfig) -> int:
    from megatron_stare.tools.table import make_tools

    for tool in make_tools(config).values():
        function = tool.schema["function"]
        print(f"{tool.name:12} {function['description'].partition(chr(10))[0]}")
    return 0


def _use(config: ToolsConfig, call: str | None = None) -> int:
    """Show the schema of the one tool of `config`, or have it answer a call."""
    from megatron_stare.tools.table import make_tools

    [tool] = make_tools(config).values()
    if call is None:
        print(json.dumps(tool.schema, indent=2, ensure_ascii=False))
        return 0
    arguments = _arguments(tool.schema["function"], call)
    try:
        tool.start()
        result = tool.session().call(arguments, config.deadline_s)
    finally:
        tool.close()
    if result.failure is not None:
        raise UserError(f"tools: {tool.name} failed: {result.failure}")
    print(printable(result.text), end="" if result.text.endswith("\n") else "\n")
    return 0 if result.ok else 1


def _arguments(function: dict[str, Any], call: str) -> dict[str, Any]:
    """Of a JSON object; any other text is the only argument that a function needs."""
    if call.lstrip().startswith("{"):
        try:
            return json.loads(call)
        except (ValueError, RecursionError) as error:
            raise UserError(f"tools: {call[:80]!r} is no JSON object ({error})") from None
    required = function["parameters"].get("required", [])
    if len(required) != 1:
        known = ", ".join(function["parameters"]["properties"]) or "no argument"
        raise UserError(
            f"tools: {function['name']} takes {known}: expected a JSON object, found {call[:80]!r}"
        )
    return {required[0]: call}


def _check() -> int:
    """Whether there are walls that work here."""
    from megatron_stare.tools.sandbox.isolation import WALLS
    from megatron_stare.tools.sandbox.pool import trouble_with

    troubles = {walls: trouble_with(walls) for walls in WALLS}
    for walls, trouble in troubles.items():
        print(f"{walls:12} {'works' if trouble is None else f'does not work: {trouble}'}")
    chosen = [walls for walls in WALLS if walls != "none" and troubles[walls] is None]
    print(f"{'auto':12} {f'is {chosen[0]}' if chosen else 'refuses'}")
    return 0 if chosen else 1
