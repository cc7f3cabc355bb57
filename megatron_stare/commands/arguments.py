"""What the command line takes for a path and a number, and how it is split into options."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from megatron_stare.system.values import expand_path

Port = Annotated[int, Field(ge=0, le=65_535)]
Tolerance = Annotated[float, Field(ge=0, le=1_000_000)]
ServerCount = Annotated[int, Field(ge=1, le=1_024)]
ThreadCount = Annotated[int, Field(ge=1, le=4_096)]

_OVERRIDES = "section.key=value"
"""In the usage of a command that takes some."""
_OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.[\w-]+)*=")

HF_HELP = "folder with the config.json of a checkpoint that has none (default: its own, SRC/hf)"
"""Of `--hf`, where a checkpoint is read."""


class Parser(argparse.ArgumentParser):
    """Argparse's, but that help which standard output does not take is not passed over."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is not None and file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)


def path(text: str) -> Path:
    """A file or folder, with `~` and variables replaced."""
    try:
        return expand_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def number(kind: Any) -> Callable[[str], Any]:
    """Of a type with bounds, such as those of `values.py`; never infinite."""
    adapter = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))

    def convert(text: str) -> Any:
        try:
            return adapter.validate_python(text)
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise argparse.ArgumentTypeError(
                f"{message[0].lower()}{message[1:]}, found {text[:80]!r}"
            ) from None

    return convert


def parse(
    parser: argparse.ArgumentParser,
    commands: Mapping[str, argparse.ArgumentParser],
    argv: Sequence[str],
) -> argparse.Namespace:
    """Parse a command line; overrides may stand anywhere behind the command.

    Exits with code 2 where something is left that the command does not know.
    """
    name = next((word for word in argv if word in commands), None)
    if name is not None and _OVERRIDES in (usage := commands[name].format_usage()):
        argv = _overrides_last(argv, usage)
    arguments, rest = parser.parse_known_args(argv)
    unknown = [text for text in rest if text.startswith("-")]
    if not unknown and "overrides" in arguments:
        arguments.overrides += rest
    elif rest:
        command = commands[arguments.command]
        command.error(f"unrecognized arguments: {' '.join(rest)}{_hint(command, unknown)}")
    return arguments


def _overrides_last(argv: Sequence[str], usage: str) -> list[str]:
    """Argparse would take an override for the config that stands behind it."""
    with_values = re.findall(r"(--[\w-]+) [A-Z{]", usage)
    overrides = {
        place
        for place, (before, word) in enumerate(pairwise(["", *argv]))
        if _OVERRIDE.match(word) and before not in with_values
    }
    last = [argv[place] for place in sorted(overrides)]
    return [word for place, word in enumerate(argv) if place not in overrides] + last


def _hint(command: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    """The option that was meant, perhaps; or how a key of the config is given."""
    if not unknown:
        return ""
    usage = command.format_usage()
    name = unknown[0].partition("=")[0]
    close = difflib.get_close_matches(name, re.findall(r"--[\w-]+", usage), n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return "; overrides are section.key=value, without dashes" if _OVERRIDES in usage else ""
