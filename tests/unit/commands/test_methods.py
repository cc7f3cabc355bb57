"""`megatron-stare methods`: what the table says of itself, and the page that is printed from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from megatron_stare.algorithms.catalogue import STATUSES, entries, find
from megatron_stare.algorithms.config import AlgorithmConfig
from megatron_stare.algorithms.table import METHODS, PARTS
from megatron_stare.cli import main
from megatron_stare.commands.methods import PLACE, page

ENTRIES = list(entries())
OWN = "tests.unit.algorithms.own_parts"
REPO = Path(__file__).parents[3]
every_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e.kind} {e.name}")


def said(capsys, *line: str) -> str:
    assert main(["methods", *line]) == 0
    return capsys.readouterr().out


@every_entry
def test_every_entry_says_what_it_is_whence_it_comes_and_how_it_was_checked(entry):
    assert entry.summary.endswith(".")
    assert entry.source
    assert entry.status in STATUSES


def test_the_whole_table_is_listed(capsys):
    assert [entry.name for entry in ENTRIES] == [*METHODS, *PARTS]
    listed = said(capsys)
    for entry in ENTRIES:
        assert f"  {entry.name} " in listed
        assert entry.summary in listed
        assert f"{entry.source}; passes: {entry.cost}" in listed


@pytest.mark.parametrize(
    ("name", "kind", "passes"),
    [
        ("grpo", "method", 0),
        ("stare", "method", 1),
        ("stare", "link", 1),
        ("quadrants", "link", 0),
        ("kl", "term", 1),
        ("entropy", "term", 0),
    ],
)
def test_costs_are_those_of_what_is_needed(name, kind, passes):
    (entry,) = [entry for entry in find(name) if entry.kind == kind]
    assert entry.passes == passes


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_chain_is_a_config(capsys, name):
    shown = said(capsys, name)
    _, _, text = shown.partition("\nalgorithm:\n")
    section = text.partition("\n\n")[0]
    config = AlgorithmConfig.model_validate(yaml.safe_load(section))
    assert config == AlgorithmConfig(method=name)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_shows_every_setting_with_type_bounds_default_and_help(capsys, name):
    shown = said(capsys, name)
    kind = PARTS[name]
    assert kind.__doc__ is not None
    assert kind.__doc__.splitlines()[0] in shown
    for key, field in kind.model_fields.items():
        assert f"\n  {key}" in shown
        if key not in ("anneal", "waves"):  # Sections of keys.
            assert " ".join((field.description or "").split()) in shown
    if name == "clip":
        assert "\n  low: number (>= 0, <= 1) = 0.2\n      The ratio is clipped below" in shown


def test_a_name_of_a_method_and_its_link_shows_both(capsys):
    shown = said(capsys, "stare")
    assert shown.index("stare: a method") < shown.index("stare: a link")


def test_a_part_that_may_wait_says_so(capsys):
    assert "passes  1, and none at a chain's end in steps of one update" in said(capsys, "tis")
    assert "and none at" not in said(capsys, "stare")


def test_parts_of_ones_own_are_shown_too(capsys):
    assert "factor: number (>= 0, <= 10) = 1.0" in said(capsys, f"{OWN}:Scaled")
    assert "needs   what its settings say" in said(capsys, f"{OWN}:Chosen")
    assert "needs   nothing" in said(capsys, f"{OWN}:Between")
    assert f"{OWN}:Pull: a term" in said(capsys, f"{OWN}:Pull")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stair", "unknown name 'stair': expected one of grpo, .*; did you mean stare?"),
        ("ppo", "unknown name 'ppo': expected one of grpo, "),
        ("", "unknown name '': expected one of grpo, "),
        ("no.module:Mine", "no.module:Mine cannot be had (ModuleNotFoundError"),
        (f"{OWN}:NotAPart", "NotAPart: expected a class that extends Component"),
        (
            "megatron_stare.algorithms.hooks:Component",
            "expected a class that extends Link, Term, Updates, Curriculum, Filter",
        ),
    ],
)
def test_an_unknown_name_is_one_line_with_a_suggestion(capsys, name, message):
    assert main(["methods", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("megatron-stare: error: methods: ")
    assert all(part in line for part in message.split(".*"))


def test_the_documentation_page_is_up_to_date():
    text = (REPO / "docs" / "methods.md").read_text()
    _, place, generated = text.partition(PLACE)
    assert place + generated == page(), (
        "print it again: python -m megatron_stare.commands.methods docs/methods.md"
    )


@pytest.mark.parametrize("name", ["weights.py", "golden.json"])
def test_the_page_shows_the_example_as_it_is(name):
    lines = (REPO / "examples" / "own_method" / name).read_text().splitlines()
    block = "\n".join(f"    {line}".rstrip() for line in lines)
    assert block in (REPO / "docs" / "methods.md").read_text()


def test_the_example_of_a_token_weight_is_a_file_of_thirty_lines():
    lines = (REPO / "examples" / "own_method" / "weights.py").read_text().splitlines()
    assert len(lines) <= 30
