"""Pages, comments and docstrings name files and modules that there are."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tools.docs_reference import PAGES as PRINTED

REPO = Path(__file__).parents[2]
_FILES = subprocess.run(
    ["git", "ls-files"], cwd=REPO, check=False, capture_output=True, text=True
).stdout.split()
PAGES = [name for name in _FILES if name.endswith(".md")]
SOURCES = [
    name
    for name in _FILES
    if name.endswith((".py", ".jinja", ".sh", ".toml")) and not name.startswith("tests/")
]

_PATH = re.compile(r"(?<![\w./*<>{}$-])((?:[\w-]+/)*[\w-]+\.(?:py|md))\b(?![\w*])")
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
_MODULE = re.compile(r"(?<![\w./-])(megatron_stare(?:\.[a-z_0-9]+)+)")
_TITLE = re.compile(r'^```\w+ title="([^"\n]+)"$', re.M)
_WRITTEN = {
    *("main.py", "my_rewards.py", "gpu_check.md", "comparison.md", "measures.md"),
    *("choice.md", "trial.md"),
    *(title for page in PAGES for title in _TITLE.findall((REPO / page).read_text())),
    *(name for uri in PRINTED for name in (uri, uri.rpartition("/")[2])),
}
"""Files that a reader, or a program, writes."""

pytestmark = pytest.mark.skipif(not _FILES, reason="needs a git checkout")


def lost_in(text: str) -> set[str]:
    """Paths and modules that a text names, and that there are not; NAME stands for any."""
    paths = {path for path in _PATH.findall(text) if "NAME" not in path} - _WRITTEN
    lost = {path for path in paths if not is_there(path)}
    return lost | {name for name in _MODULE.findall(text) if not is_module(name)}


def is_there(path: str) -> bool:
    """Whether a file of the repository has this path, or one that ends with it."""
    return any(name == path or name.endswith(f"/{path}") for name in _FILES)


def is_module(name: str) -> bool:
    """Whether it is a module of the package, or a module has something of that name."""
    parent, _, last = name.rpartition(".")
    return _source(name) != "" or re.search(rf"\b{last}\b", _source(parent)) is not None


def _source(module: str) -> str:
    path = REPO / module.replace(".", "/")
    found = [path.with_suffix(".py"), path / "__init__.py"]
    return "".join(file.read_text() for file in found if file.is_file())


def leads_somewhere(page: Path, link: str) -> bool:
    """Whether a file is there, or the docs site will have that page."""
    there = Path(os.path.normpath(page.parent / link))
    return there.exists() or str(there.relative_to(REPO / "docs")) in PRINTED


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_what_is_there(page: str):
    text = (REPO / page).read_text()
    links = _LINK.findall(text)

    assert lost_in(text) == set()
    assert [link for link in links if not leads_somewhere(REPO / page, link)] == []


def test_sources_name_what_is_there():
    lost = {source: lost_in((REPO / source).read_text()) for source in SOURCES}

    assert {source: names for source, names in lost.items() if names} == {}


def test_what_is_not_there_is_found():
    text = "see `rollout/embedded.py`, docs/nowhere.md and megatron_stare.rollout.embedded.Engine"

    assert lost_in(text) == {
        "rollout/embedded.py",
        "docs/nowhere.md",
        "megatron_stare.rollout.embedded",
    }
