"""`megatron-stare methods [NAME]`, and the part of docs/methods.md that says the same.

`python -m megatron_stare.commands.methods docs/methods.md` writes that part of the page anew.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import yaml

from megatron_stare.algorithms.catalogue import Entry, entries, find
from megatron_stare.algorithms.config import AlgorithmConfig
from megatron_stare.algorithms.method import Method
from megatron_stare.algorithms.paper_names import names_in_papers
from megatron_stare.config_io import describe
from megatron_stare.errors import UserError
from megatron_stare.system.folders import write_whole

PLACE = "<!-- What follows is printed from the table: python -m megatron_stare.commands.methods -->"
"""Stands in the page before what is generated."""
_TITLES = {
    "method": "methods: algorithm.method=NAME",
    "link": "links: algorithm.links=[NAME, ...]",
    "term": "terms: algorithm.terms=[NAME, ...], the first of a method in algorithm.policy",
    "updates": "updates: algorithm.updates=NAME, the optimizer updates of a step",
    "curriculum": "curricula: algorithm.curriculum=NAME, the problems that are asked",
    "filter": "filters: algorithm.filters=[NAME, ...], with rollout.dynamic_sampling",
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`methods [NAME]`."""
    command.add_argument(
        "name", nargs="?", help="of a method or a part; package.module:Class of your own"
    )
    command.set_defaults(run=_methods)


def _methods(arguments: argparse.Namespace) -> int:
    if arguments.name is None:
        print(table())
        return 0
    try:
        found = find(arguments.name)
    except ValueError as error:
        raise UserError(f"methods: {error}") from None
    print("\n\n".join(map(details, found)))
    return 0


def table() -> str:
    """Every entry in two lines."""
    lines: list[str] = []
    known = list(entries())
    width = max(len(entry.name) for entry in known)
    for kind, title in _TITLES.items():
        lines += ["", title]
        for entry in known:
            if entry.kind == kind:
                costs = f"{entry.source}; passes: {entry.cost}; needs {_needs(entry)}"
                lines += [f"  {entry.name:{width}}  {entry.summary}", f"  {'':{width}}  {costs}"]
    return "\n".join(lines[1:])


def details(entry: Entry) -> str:
    """All that there is to know of an entry, for a terminal."""
    facts = "\n".join(f"{name:7} {text}" for name, text in _facts(entry))
    parts = [entry.summary, entry.body, facts]
    head = f"{entry.name}: a {entry.kind}"
    return "\n\n".join(
        [head, *(textwrap.indent(part, "  ") for part in parts if part), _how_to_set(entry)]
    )


def _how_to_set(entry: Entry) -> str:
    if isinstance(entry.of, Method):
        return _as_yaml(entry.name).rstrip()
    place = f"algorithm.{entry.name.rpartition(':')[2]}"
    rows = [
        f"  {key}: {type_} = {default}\n      {text}"
        for key, type_, default, text in _settings(entry)
    ]
    return "\n".join([f"settings: {place}.KEY=VALUE", *rows]) if rows else "settings: none"


def _settings(entry: Entry) -> Iterator[tuple[str, str, str, str]]:
    """Each setting of a part: key, type and bounds, default, help with its names in papers."""
    assert not isinstance(entry.of, Method)
    for key, type_, default, text in describe(entry.of):
        names = names_in_papers(entry.name, key)
        also = f" Also `{'`, `'.join(names)}`." if names else ""
        yield key, type_, default, " ".join(text.split()) + also


def _as_yaml(method: str) -> str:
    """A preset's section of a config, every key of it spelled out."""
    config = AlgorithmConfig.model_validate({"method": method}).model_dump(mode="json")
    return yaml.safe_dump({"algorithm": {"method": method, **config}}, sort_keys=False)


def _facts(entry: Entry) -> Iterator[tuple[str, str]]:
    if entry.source:
        yield "source", entry.source
    if entry.status:
        yield "status", entry.status
    yield "needs", _needs(entry)
    passes = "as its settings say" if entry.passes is None else entry.cost
    if entry.may_wait:
        passes += ", and none at a chain's end in steps of one update"
    yield "passes", passes


def _needs(entry: Entry) -> str:
    if entry.needs is None:
        return "what its settings say"
    return ", ".join(sorted(need.name for need in entry.needs)) or "nothing"


def page() -> str:
    """The generated part of docs/methods.md."""
    parts = [PLACE]
    titles = {
        "method": "The methods",
        "link": "The links",
        "term": "The terms",
        "updates": "The updates",
        "curriculum": "The curricula",
        "filter": "The filters",
    }
    for kind, title in titles.items():
        of_kind = [entry for entry in entries() if entry.kind == kind]
        parts.append(f"## {title}")
        parts.append("\n".join(_overview(of_kind)))
        parts += [_section(entry) for entry in of_kind]
    return "\n\n".join(parts) + "\n"


def _overview(of_kind: list[Entry]) -> Iterator[str]:
    yield "| name | what it is | needs | passes |"
    yield "|---|---|---|---|"
    for entry in of_kind:
        yield f"| `{entry.name}` | {_cell(entry.summary)} | {_needs(entry)} | {entry.cost} |"


def _section(entry: Entry) -> str:
    facts = "; ".join(f"{name}: {text}" for name, text in _facts(entry))
    parts = [f"### {entry.kind.capitalize()} `{entry.name}`"]
    parts += [part for part in (entry.summary, entry.body) if part]
    parts.append("\n".join(textwrap.wrap(f"{facts[0].upper()}{facts[1:]}.", 100)))
    if isinstance(entry.of, Method):
        parts.append(textwrap.indent(_as_yaml(entry.name).rstrip(), "    "))
    elif rows := list(_settings(entry)):
        lines = ["| setting | type | default | meaning |", "|---|---|---|---|"]
        for key, type_, default, text in rows:
            cells = (f"`{key}`", _cell(type_), f"`{default}`", _cell(text))
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    path = Path(sys.argv[1])
    write_whole(path, path.read_text().partition(PLACE)[0] + page())
