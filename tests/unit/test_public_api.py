"""What `import megatron_stare` offers: by name, light, with examples that are true."""

from __future__ import annotations

import doctest
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import megatron_stare

NAMES = [*megatron_stare._HOMES]
PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "api.md").read_text()
TABLES = {"METHODS"}


def test_importing_it_imports_nothing_else():
    code = (
        "import sys; before = {*sys.modules}; import megatron_stare; print({*sys.modules} - before)"
    )
    new = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert not re.findall(r"'(?:torch|pydantic|numpy|megatron_stare\.\w+)", new)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_there_and_in_the_docs(name):
    thing = getattr(megatron_stare, name)

    assert name in dir(megatron_stare)
    if name not in TABLES:
        assert f"::: {thing.__module__}.{name}\n" in PAGE
    else:
        assert f"`{name}`" in PAGE


def test_what_is_not_there_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        getattr(megatron_stare, "nothing")  # noqa: B009


@pytest.mark.parametrize("name", sorted({*NAMES} - TABLES))
def test_a_name_has_an_example_that_is_true(name):
    thing = getattr(megatron_stare, name)
    module = inspect.getmodule(thing)
    assert module is not None
    found = doctest.DocTestFinder(recurse=False).find(thing, name, globs=dict(vars(module)))
    outcomes = [doctest.DocTestRunner().run(test) for test in found]

    assert sum(outcome.attempted for outcome in outcomes) > 0
    assert sum(outcome.failed for outcome in outcomes) == 0
