"""What import-linter cannot see of how the package is built."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import megatron_stare
from megatron_stare.algorithms.table import METHODS

PACKAGE = Path(megatron_stare.__file__).parent
COMPONENTS = (
    "links",
    "terms",
    "curricula",
    "filters.py",
    "replay.py",
    "updates.py",
    "corrections.py",
)
OURS = re.compile(r"megatron[-_ ]stare", re.IGNORECASE)
"""The package's own name."""


def imported(path: Path) -> Iterator[str]:
    """Every module, or name in one, that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(*names: str) -> list[Path]:
    found = [PACKAGE / "algorithms" / name for name in names]
    return [file for path in found for file in (sorted(path.glob("*.py")) or [path])]


@pytest.mark.parametrize("path", sources(*COMPONENTS), ids=lambda path: path.stem)
def test_a_part_of_a_method_has_no_way_to_a_process_group(path: Path):
    assert not [name for name in imported(path) if name.startswith("torch.distributed")]


def test_imports_of_a_process_group_are_found():
    stats = PACKAGE / "algorithms" / "batch_stats.py"

    assert "torch.distributed" in list(imported(stats))


def named_in(text: str) -> set[str]:
    """The methods that a text names."""
    rest = OURS.sub("", text)
    return {name for name in METHODS if re.search(rf"(?i)(?<![a-z_]){name}(?![a-z])", rest)}


def test_only_the_algorithms_know_the_name_of_a_method():
    """But for the package's own file, which has the names that are for others to use."""
    elsewhere = [
        path
        for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.jinja")]
        if PACKAGE / "algorithms" not in path.parents and path != PACKAGE / "__init__.py"
    ]
    named = {str(path.relative_to(PACKAGE)): named_in(path.read_text()) for path in elsewhere}

    assert len(named) > 200
    assert {path: names for path, names in named.items() if names} == {}


def test_names_of_methods_are_found():
    text = 'python -m megatron_stare.cli, MEGATRON_STARE_HEAD_TILE: STARE, "stare/w" and grpo_s'

    assert named_in(text) == {"stare", "grpo", "grpo_s"}
