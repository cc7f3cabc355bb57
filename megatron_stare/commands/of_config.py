"""Commands that read a config: its file, overrides, and every key of it in the help."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from pydantic import BaseModel

from megatron_stare.commands.arguments import path
from megatron_stare.config_io import describe


def take_config(
    command: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], int],
    kind: type[BaseModel] | None = None,
) -> None:
    """`CONFIG [section.key=value ...]`; `kind` is what the config is for, if it is one."""
    command.epilog = None if kind is None else key_table(kind)
    command.add_argument("config", type=path, help="YAML file of differences from the defaults")
    command.add_argument("overrides", nargs="*", metavar="section.key=value", help="overrides")
    command.set_defaults(run=run)


def key_table(kind: type[BaseModel]) -> str:
    """Every key of a config, with its type, its default and what it is."""
    rows = [
        f"  {key}: {type_} = {default}\n      {text}"
        for key, type_, default, text in describe(kind)
    ]
    return "\n".join(["keys:", *rows])
