"""Commands that read a config: its file, overrides, and every key of it in the help."""

from __future__ import annotations

import argparse
import inspect
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from megatron_stare.commands.arguments import path
from megatron_stare.config_io import describe, sections

_WIDEST = 100


def take_config(
    command: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], int],
    kind: type[BaseModel] | None = None,
    *,
    without_file: str | None = None,
) -> None:
    """`CONFIG [section.key=value ...]`; `kind` is what the config is for, if it is one.

    Args:
        without_file: what there is where no file is given; None where one has to be.
    """
    if kind is not None:
        command.add_argument("-h", "--help", action=_Help, kind=kind, help=_Help.__doc__)
        command.epilog = section_table(kind)
    about = "YAML file of differences from the defaults"
    if without_file is None:
        command.add_argument("config", type=path, help=about)
    else:  # Argparse takes the first override for it.
        command.add_argument("config", nargs="?", help=f"{about} (without: {without_file})")
    command.add_argument("overrides", nargs="*", metavar="section.key=value", help="overrides")
    command.set_defaults(run=run)


class _Help(argparse.Action):
    """show this help message, or the keys of a section, or of all, and exit"""

    def __init__(self, option_strings: Sequence[str], kind: type[BaseModel], **options: Any):
        super().__init__(option_strings, nargs="?", const="", metavar="SECTION", **options)
        self._kind = kind

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Print it, and end."""
        text = key_table(self._kind, values) if values else parser.format_help()
        if not text:
            known = ", ".join(["all", *(name for name, _ in sections(self._kind))])
            parser.error(f"{option_string}: no section {values!r:.80}, expected one of {known}")
        print(text.rstrip())
        parser.exit()


def section_table(kind: type[BaseModel]) -> str:
    """The sections of a config, with what each is of, and the keys that are in none."""
    found = {name: inspect.getdoc(section) or "" for name, section in sections(kind)}
    start = max(map(len, found), default=0) + 4
    rows = [
        _wrapped(text.partition("\n\n")[0], f"  {name:{start - 2}}", " " * start)
        for name, text in found.items()
    ]
    if not rows:
        return key_table(kind, "all")
    loose = "\n".join(_rows(row for row in describe(kind) if row[0].partition(".")[0] not in found))
    head = "sections of the config; --help SECTION has the keys of one, --help all of all:"
    return "\n".join([head, *rows, *([loose] if loose else [])])


def key_table(kind: type[BaseModel], prefix: str) -> str:
    """The keys of a section, or those that begin with a prefix, or `all`; empty if there are none.

    Each has what it takes, its default and what it is.
    """
    found = [
        row for row in describe(kind) if prefix == "all" or f"{row[0]}.".startswith(f"{prefix}.")
    ]
    return "\n".join(["keys:", *_rows(found)]) if found else ""


def _rows(keys: Iterable[tuple[str, str, str, str]]) -> Iterator[str]:
    for key, takes, default, text in keys:
        yield f"  {key}: {takes} = {default}\n{_wrapped(text, ' ' * 6, ' ' * 6)}"


def _wrapped(text: str, first: str, rest: str) -> str:
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=rest)
