"""The `algorithm` section: a method's preset, and what is different from it.

    algorithm: {method: stare}
    algorithm: {method: stare, stare: {target_entropy: 0.25}, clip: {high: 0.2}}
    algorithm: {method: grpo, links: [grpo, {tis: {high: 3}}], terms: [{kl: {coef: 0.01}}]}
    algorithm: {method: grpo, links: [grpo, {"mypackage.weights:Mine": {alpha: 1}}]}

A part's settings may stand in the chain or beside it under the part's name, where dotted overrides
reach them: `algorithm.stare.w=1.05`. Those of another method's parts may stand there, too: they
are checked, and wait until `method` names it, so that one key makes a run its own baseline.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping
from typing import Any, cast

from pydantic import (
    BaseModel,
    Field,
    GetJsonSchemaHandler,
    create_model,
    field_serializer,
    model_validator,
)

from megatron_stare.algorithms.corrections import Correction, Tis
from megatron_stare.algorithms.hooks import (
    Component,
    Curriculum,
    Filter,
    Link,
    Mark,
    Term,
    Updates,
)
from megatron_stare.algorithms.method import Method
from megatron_stare.algorithms.paper_names import in_our_words
from megatron_stare.algorithms.table import (
    CURRICULA,
    FILTERS,
    LINKS,
    METHODS,
    PARTS,
    TERMS,
    UPDATES,
)
from megatron_stare.system.imports import import_own

Specs = dict[str, Any]
"""Settings of parts by their names: a mapping, or the part itself."""

_TABLES: dict[str, tuple[Mapping[str, type[Component]], type[Component]]] = {
    "links": (LINKS, Link),
    "policy": (TERMS, Term),
    "terms": (TERMS, Term),
    "updates": (UPDATES, Updates),
    "curriculum": (CURRICULA, Curriculum),
    "filters": (FILTERS, Filter),
}
"""Where the parts of each key are named, and what a user's own has to be."""
_PART_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "object"}]}
_CHAIN_SCHEMA = {"anyOf": [*_PART_SCHEMA["anyOf"], {"type": "array", "items": _PART_SCHEMA}]}


class AlgorithmConfig(Method):
    """Which method decides the credit of tokens, and the loss."""

    method: str = "stare"
    """A preset of the table (`megatron-stare methods`); the keys below replace its parts."""
    correct_stale: bool = True
    """Whether `tis` joins the chain where tokens may be older than the weights that they train, and
    no correction is in it."""

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, given: Any) -> Any:
        """The preset's parts, with what is given in their place."""
        if not isinstance(given, dict):
            return given
        name = given.get("method", cls.model_fields["method"].default)
        if not isinstance(name, str) or name not in METHODS:
            raise ValueError(f"method={name!r}: expected one of {', '.join(METHODS)}{_place(name)}")
        preset = METHODS[name]
        chains = {
            key: _specs(key, given[key]) if key in given else dict(getattr(preset, key))
            for key in _TABLES
        }
        beside = {key: given[key] for key in given if key not in cls.model_fields}
        parts = _parts(chains, beside)
        others = {key: value for key, value in given.items() if key not in {*chains, *beside}}
        return {
            "aggregation": preset.aggregation,
            **others,
            **{key: {name: parts[_short(name)] for name in chain} for key, chain in chains.items()},
        }

    @model_validator(mode="after")
    def _makes_advantages(self) -> AlgorithmConfig:
        if not self.links:
            raise ValueError("links=[]: without a link every advantage is 0, expected some")
        return self

    @model_validator(mode="after")
    def _marks_what_it_reads(self) -> AlgorithmConfig:
        marks = frozenset().union(*(link.marks for link in self.links.values()))
        for name, term in {**self.policy, **self.terms}.items():
            for mark in term.needs - marks:
                if isinstance(mark, Mark):
                    makers = [link for link, kind in LINKS.items() if mark in kind.marks]
                    raise ValueError(
                        f"{name} reads the marks of {' or '.join(makers) or mark.name}: "
                        "expected that among links"
                    )
        return self

    @classmethod
    def sections_beside(cls) -> Mapping[str, type[BaseModel]]:
        """The parts of the table."""
        return PARTS

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: Any, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Chains as `_spelled_out` takes them, and parts' settings beside them."""
        schema = handler(core_schema)
        keys = handler.resolve_ref_schema(schema)["properties"]
        texts = {key: keys[key]["description"] for key in _TABLES}
        keys |= {key: {"description": text, **_CHAIN_SCHEMA} for key, text in texts.items()}
        keys |= {name: handler(part.__pydantic_core_schema__) for name, part in PARTS.items()}
        return schema

    def corrected(self) -> AlgorithmConfig:
        """The same for tokens that may be older than the weights that they train."""
        is_corrected = any(isinstance(link, Correction) for link in self.links.values())
        if is_corrected or not self.correct_stale:
            return self
        return self.model_copy(update={"links": {**self.links, "tis": Tis()}})

    @field_serializer(*_TABLES)
    def _as_given(self, chain: Mapping[str, Component]) -> list[dict[str, Any]]:
        return [{name: part.model_dump(mode="json")} for name, part in chain.items()]


def _place(name: Any) -> str:
    """Where a part stands whose name was taken for that of a method."""
    for key, (table, _) in _TABLES.items():
        if isinstance(name, str) and name in table:
            return f"; {name} is no method of its own, expected it in {key}"
    return ""


def _specs(key: str, given: Any) -> Specs:
    """What a chain holds: `grpo`, `[grpo, {tis: {high: 2}}]` or `{grpo: {}, tis: {high: 2}}`."""
    specs: Specs = {}
    for item in given if isinstance(given, list | tuple) else [given]:
        entries = {item: {}} if isinstance(item, str) else item
        if not isinstance(entries, dict):
            raise ValueError(f"{key}: expected names of parts with their settings, found {item!r}")
        for name, settings in entries.items():
            if name in specs:
                raise ValueError(f"{key}: {name} stands twice")
            specs[name] = {} if settings is None else settings
    return specs


def _parts(chains: Mapping[str, Specs], beside: Specs) -> dict[str, Component]:
    """Every part that is named, by its short name, with its settings checked."""
    kinds: dict[str, type[Component]] = {}
    settings: Specs = {}
    for key, chain in chains.items():
        for name, given in chain.items():
            kind, short = _kind(key, name), _short(name)
            if short in kinds:
                raise ValueError(f"{key}: {short} stands twice")
            kinds[short], settings[short] = kind, in_our_words(short, given)
    for name, given in beside.items():
        if name not in kinds:
            kinds[name] = _waiting(name, chains)
        settings[name] = _merged(settings.get(name, {}), in_our_words(name, given))
    parts = _section_of(tuple(kinds.items())).model_validate(settings)
    return {name: part for name, (_, part) in zip(kinds, parts, strict=True)}


@functools.cache
def _section_of(kinds: tuple[tuple[str, type[Component]], ...]) -> type[BaseModel]:
    """A section of the parts: pydantic names a wrong key or value by its place in it."""
    fields = {f"part{i}": (kind, Field(alias=name)) for i, (name, kind) in enumerate(kinds)}
    return create_model("Parts", **cast("dict[str, Any]", fields))


def _waiting(name: str, chains: Mapping[str, Specs]) -> type[Component]:
    """Of a part that is in another method's chain, and not in this one."""
    for method in METHODS.values():
        if name in (parts := method.parts):
            return type(parts[name])
    for key in ("links", "terms", "updates", "curriculum", "filters"):
        if name in _TABLES[key][0]:
            is_one = key in ("updates", "curriculum")
            names = [name] if is_one else [*chains[key], name]
            raise ValueError(f"{name} is in no chain: add it, {key}=[{', '.join(names)}]")
    own = [_short(name) for chain in chains.values() for name in chain]
    known = [*PARTS, *own, *AlgorithmConfig.model_fields]
    raise ValueError(unknown("unknown key", name, known))


def _merged(in_chain: Any, beside: Any) -> Any:
    """Settings that stand in both places: those beside the chain count."""
    if not isinstance(beside, dict):
        return {} if beside is None else beside
    if isinstance(in_chain, Component):
        in_chain = in_chain.model_dump(exclude_unset=True)
    return {**in_chain, **beside}


def _kind(key: str, name: Any) -> type[Component]:
    table, base = _TABLES[key]
    if name in table:
        return table[name]
    if not isinstance(name, str) or ":" not in name:
        raise ValueError(unknown(f"{key}: unknown name", name, table))
    try:
        return own_part(name, base)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def own_part(name: str, base: type[Component]) -> type[Component]:
    """A user's class by `package.module:Class`, from what Python finds or the working directory.

    Raises:
        ValueError: it is not there, cannot be imported, or does not extend `base`.
    """
    try:
        found = import_own(name)
    except ValueError as error:
        raise ValueError(f"{name[:80]} cannot be had ({str(error)[:200]})") from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{name}: expected a class that extends {base.__name__}")
    return found


def _short(name: str) -> str:
    """What a part is called beside the chain: a user's own by the name of its class."""
    return name.rpartition(":")[2]


def unknown(what: str, name: Any, known: Iterable[str]) -> str:
    """What is wrong with a name that is none of those known, and which was meant perhaps."""
    known = list(dict.fromkeys(known))
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{what} {str(name)[:80]!r}: expected one of {', '.join(known)}{hint}"
