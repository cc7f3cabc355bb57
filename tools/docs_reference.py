"""Pages of the docs site that are printed: keys of configs, commands, the list of decisions."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from megatron_stare import cli
from megatron_stare.config.kinds import KINDS
from megatron_stare.config_io import describe, sections

_DECISIONS = Path(__file__).parents[1] / "docs" / "decisions"

COMMANDS_PAGE = "reference/commands.md"
DECISIONS_PAGE = "decisions/index.md"
CONFIG_PAGES = {f"reference/config/{name}.md": name for name in KINDS}
PAGES = (COMMANDS_PAGE, DECISIONS_PAGE, *CONFIG_PAGES)
"""From docs/; they are made when the site is, and not kept."""


def page(uri: str) -> str:
    """The text of one of `PAGES`."""
    if (name := CONFIG_PAGES.get(uri)) is not None:
        return "\n".join(_config(name, KINDS[name]))
    return "\n".join(_commands() if uri == COMMANDS_PAGE else _decisions())


def _decisions() -> Iterator[str]:
    """What was decided, a link each."""
    yield "# Decisions\n"
    for path in sorted(_DECISIONS.glob("0*.md")):
        yield f"- [{path.read_text().partition(chr(10))[0].lstrip('# ')}]({path.name})"


def _config(name: str, kind: type[BaseModel]) -> Iterator[str]:
    yield f"# Keys of `megatron-stare {name}`\n"
    yield "A config is a YAML file of [differences from these defaults](../../config.md); NAME is a"
    yield f"name of your choice. `megatron-stare {name} --help SECTION` shows the same.\n"
    in_sections = dict(sections(kind))
    rows = list(describe(kind))
    loose = [row for row in rows if row[0].partition(".")[0] not in in_sections]
    yield from _table(loose) if loose else ()
    for section, of in in_sections.items():
        yield f"\n## {section}\n"
        yield f"{inspect.getdoc(of)}\n".replace("{", "&#123;")
        yield from _table([row for row in rows if row[0].startswith(f"{section}.")])


def _table(rows: list[tuple[str, str, str, str]]) -> Iterator[str]:
    yield "| key | default | takes | what it is |"
    yield "|---|---|---|---|"
    for key, takes, default, text in rows:
        shown = default if default == "required" else f"`{default}`"
        cells = (f'<a id="{key}"></a>`{key}`', shown, takes, text)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _commands() -> Iterator[str]:
    os.environ["COLUMNS"] = "100"  # Argparse wraps its help to a terminal's width.
    yield "# Commands\n"
    yield "`megatron-stare COMMAND --help` says the same. Exit codes and the rest:\n"
    yield f"```text\n{inspect.getdoc(cli)}\n```"
    for name in cli.COMMANDS:
        _, commands = cli.parsers([name])
        yield f"\n## {name}\n"
        yield f"```text\n{commands[name].format_help()}```"
