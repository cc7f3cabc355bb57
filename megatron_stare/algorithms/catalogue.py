"""What the table holds, as text: what each entry is, where it comes from, what it costs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from megatron_stare.algorithms.config import own_part, unknown
from megatron_stare.algorithms.hooks import (
    Component,
    Curriculum,
    Filter,
    Link,
    Need,
    Term,
    Updates,
)
from megatron_stare.algorithms.method import Method
from megatron_stare.algorithms.needs import OLD, head_products
from megatron_stare.algorithms.table import METHODS, PARTS

STATUSES = ("checked against authors' code", "paper", "derived")
"""What golden numbers come from: the authors' program, the paper's formula, or our own algebra."""

Kind = Literal["method", "link", "term", "updates", "curriculum", "filter"]
_KINDS: dict[Kind, type[Component]] = {
    "link": Link,
    "term": Term,
    "updates": Updates,
    "curriculum": Curriculum,
    "filter": Filter,
}

_LINE = re.compile(r"^(Source|Status):\s*(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Entry:
    """A method or a part.

    summary, body    its formula or sense in one line; what else there is to know, perhaps nothing
    source, status   empty where they are not said, as a user's own part need not
    needs            by its default settings; None where some that decide have no default
    may_wait         whether it reads old scores in the micro-batch that computes them
    of               the method, or the class of the part
    """

    kind: Kind
    name: str
    summary: str
    body: str
    source: str
    status: str
    needs: frozenset[Need[Any]] | None
    may_wait: bool
    of: Method | type[Component]

    @property
    def passes(self) -> int | None:
        """Forward passes of a whole batch before its updates."""
        return None if self.needs is None else sum(need.passes for need in self.needs)

    @property
    def cost(self) -> str:
        """Those, and further products of the LM head in one of them."""
        products = head_products(self.needs or ())
        return f"{self.passes}{f' + {products} of the head' if products else ''}"


def entries() -> Iterator[Entry]:
    """All of the table, in its order: methods, links, terms."""
    for name, preset in METHODS.items():
        yield _entry("method", name, preset.about, preset.needs, preset)
    for name, kind in PARTS.items():
        yield part_entry(name, kind)


def find(name: str) -> list[Entry]:
    """What has this name in the table; a method and its link often share one.

    Args:
        name: or `package.module:Class` of a user's part.

    Raises:
        ValueError: there is nothing of this name.
    """
    if ":" in name:
        return [part_entry(name, own_part(name, Component))]
    known = list(entries())
    found = [entry for entry in known if entry.name == name]
    if not found:
        raise ValueError(unknown("unknown name", name, [entry.name for entry in known]))
    return found


def part_entry(name: str, kind: type[Component]) -> Entry:
    """What a part says of itself.

    Raises:
        ValueError: the class is of no kind of part.
    """
    words: list[Kind] = [word for word, base in _KINDS.items() if issubclass(kind, base)]
    if not words:
        kinds = ", ".join(base.__name__ for base in _KINDS.values())
        raise ValueError(f"{name}: expected a class that extends {kinds}")
    try:
        needs = kind().needs
    except ValidationError:
        needs = kind.needs if isinstance(kind.needs, frozenset) else None
    may_wait = issubclass(kind, Link) and kind.scope == "sample" and OLD in (needs or ())
    about = kind.__doc__ or ""
    return _entry(words[0], name, about, needs, kind, may_wait=may_wait)


def _entry(
    kind: Kind,
    name: str,
    about: str,
    needs: frozenset[Need[Any]] | None,
    of: Method | type[Component],
    *,
    may_wait: bool = False,
) -> Entry:
    text = inspect.cleandoc(about)
    lines = dict(_LINE.findall(text))
    summary, _, body = _LINE.sub("", text).strip().partition("\n")
    source, status = lines.get("Source", ""), lines.get("Status", "")
    return Entry(kind, name, summary, body.strip(), source, status, needs, may_wait, of)
