"""The tools of a config, by their names."""

from __future__ import annotations

from megatron_stare.config.tools import TOOLS, ToolsConfig
from megatron_stare.errors import UserError
from megatron_stare.system.imports import import_own
from megatron_stare.tools.functions import FunctionTool
from megatron_stare.tools.tool import Tool


def make_tools(config: ToolsConfig) -> dict[str, Tool]:
    """The tools of `config.names` by the names that a model calls them by, not yet started.

    Raises:
        UserError: one cannot be imported, is no tool, or has the name of another.
    """
    tools: dict[str, Tool] = {}
    for name in config.names:
        tool = _make(name, config)
        if tool.name in tools:
            raise UserError(f"tools.names: {name} is called {tool.name!r}, as another one is")
        tools[tool.name] = tool
    return tools


def _make(name: str, config: ToolsConfig) -> Tool:
    """A class of ours takes the config; anything else is a function, or class, as it stands."""
    path = TOOLS.get(name, name)
    try:
        target = import_own(path)
    except ValueError as error:
        raise UserError(f"tools.names: cannot import {path} ({error})") from None
    if name in TOOLS and isinstance(target, type):
        return target(config)
    called = name if name in TOOLS else path.rpartition(":")[2]
    try:
        return FunctionTool(target, called)
    except ValueError as error:
        raise UserError(f"tools.names: {name} is no tool: {error}") from None
