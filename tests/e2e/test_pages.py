"""Tutorials and how-tos do what they say: their files and commands, from the pages' own text.

A block with a title is a file, a block of bash is run, in their order, in an empty folder. A page
that goes on "in the folder of" another one gets that one's first section before.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from megatron_stare.cli import parsers
from megatron_stare.commands.arguments import parse
from megatron_stare.config.kinds import KINDS
from megatron_stare.config_io import describe, load_config, load_one_of
from megatron_stare.errors import UserError

REPO = Path(__file__).parents[2]
PAGES = sorted(path for kind in ("tutorials", "howto") for path in (REPO / "docs" / kind).glob("*"))
_FENCE = re.compile(r'^```(\w+)(?: title="([^"\n]+)")?\n(.*?)^```$', re.M | re.S)
_BEGINS_IN = re.compile(r"in\s+the\s+folder\s+of\s+\[[^]]+\]\(([\w./-]+)#1-")


class Block(NamedTuple):
    """A fenced block: a file, where it has a title, or commands."""

    language: str
    title: str
    text: str


def blocks_of(page: Path) -> Iterator[Block]:
    """What a page has its reader write and run."""
    text = page.read_text()
    if (before := _BEGINS_IN.search(text)) is not None:
        first = (page.parent / before[1]).read_text().partition("\n## 2.")[0]
        yield from (Block(*found) for found in _FENCE.findall(first))
    yield from (Block(*found) for found in _FENCE.findall(text))


def write(block: Block, folder: Path) -> None:
    path = folder / block.title
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text)


def commands_in(text: str) -> Iterator[list[str]]:
    """The words of each `megatron-stare` of a block, without where its output goes."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("megatron-stare "):
            words = shlex.split(line, comments=True)
            ends = (place for place, word in enumerate(words) if word in ("|", "||", ">", "2>"))
            yield words[1 : next(ends, None)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_configs_of_a_page_are_understood(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks_of(page):
        if block.title:
            write(block, tmp_path)
        elif block.language == "bash":
            for words in commands_in(block.text):
                understand(words)


def understand(words: list[str]) -> None:
    """Parse a command, and check its config with its overrides."""
    arguments = parse(*parsers(words), words)
    config = getattr(arguments, "config", None)
    if config is None or not config.suffix:
        return
    if words[0] in KINDS:
        load_config(KINDS[words[0]], config, arguments.overrides)
    else:
        loops = {name: KINDS[name] for name in ("train", "sft", "prefer")}
        load_one_of(loops, config, arguments.overrides)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_keys_that_a_page_names_are_there(page):
    known = {key for kind in KINDS.values() for key, *_ in describe(kind)}
    sections = {key.partition(".")[0] for key in known}
    text = page.read_text()
    if page.stem == "coming_from":  # The first cell of its rows has a name of others.
        text = re.sub(r"(?m)^\| [^|]*", "", text)
    named = re.findall(r"`(\w+(?:\.\w+)+)(?:[=:] ?[^`]*)?`", text)

    keys = [key for key in named if key.partition(".")[0] in sections]
    assert [key for key in keys if not any(f"{one}.".startswith(f"{key}.") for one in known)] == []


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_works_as_it_stands(page, tmp_path):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPO), "COLUMNS": "100"}
    for block in blocks_of(page):
        if block.title:
            write(block, tmp_path)
        elif block.language == "bash":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.text],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{block.text}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"


def test_a_page_that_is_wrong_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("model: {path: m}\ndata: {path: d}\n")
    with pytest.raises(SystemExit):
        understand(["train", "run.yaml", "--no-such-option"])
    with pytest.raises(UserError, match="unknown key"):
        understand(["train", "run.yaml", "optim.learning_rate=1"])
