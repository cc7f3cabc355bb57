"""What the keys of a config take, in words: kinds, bounds, units, defaults."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_SCALARS = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    NoneType: "null",
}
_NAMED = {str: "texts", dict[str, Any]: "sections"}
_UNITS = {
    "_s": "seconds",
    "_tokens": "tokens",
    "_gib": "GiB",
    "_mib": "MiB",
    "_kib": "KiB",
    "_hours": "hours",
    "entropy": "nats",
}
"""Of a number, by the end of its key's name."""
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def takes(key: str, field: FieldInfo) -> str:
    """Kind, bounds and unit of the values of a key: `number (>= 0.001, <= 1e+06), seconds`."""
    kind, comma, null = kind_in_words(field.annotation).partition(", or null")
    bounds = bounds_of(field.annotation, field.metadata)
    texts = [f"{sign} {bounds[name]:g}" for name, sign in _SIGNS.items() if name in bounds]
    is_number = "number" in kind.partition(",")[0]  # And not one beside words.
    units = (unit for end, unit in _UNITS.items() if key.endswith(end) and is_number)
    in_bounds = f" ({', '.join(texts)})" if texts else ""
    return kind + in_bounds + "".join(f", {unit}" for unit in units) + comma + null


def default_in_words(field: FieldInfo) -> str:
    """A key's default as a config has it, on one line."""
    return "required" if field.is_required() else _as_yaml(field.get_default())


def kind_in_words(annotation: Any) -> str:
    """The kind of values that an annotation stands for.

    >>> kind_in_words(tuple[str, ...] | None), kind_in_words(Literal["on", "off"])
    ('list of text, or null', 'on or off')
    """
    parts = get_args(annotation)
    origin = get_origin(annotation)
    if origin is Annotated:
        return kind_in_words(parts[0])
    if origin is Literal:
        return _either(map(str, parts))
    if origin in (Union, UnionType):
        return ", or ".join(map(kind_in_words, parts))
    if origin is tuple:
        kind = kind_in_words(parts[0])
        return f"list of {kind}s" if kind.endswith("number") else f"list of {kind}"
    if origin is dict:
        value = get_args(parts[1])[0] if get_origin(parts[1]) is Annotated else parts[1]
        is_section = isinstance(value, type) and issubclass(value, BaseModel)
        return f"{'sections' if is_section else _NAMED.get(value, 'any values')} by name"
    return _SCALARS.get(annotation, "any value")


def bounds_of(annotation: Any, metadata: Sequence[Any] = ()) -> dict[str, float]:
    """Bounds of a key's numbers: of `ge`, `gt`, `le` and `lt` those that it has.

    Args:
        annotation, metadata: of its field; an optional or nested number has its own inside.
    """
    bounds: dict[str, float] = {}
    for part in get_args(annotation):
        bounds |= bounds_of(part)
        bounds |= bounds_of(None, getattr(part, "metadata", ()))
    for constraint in metadata:
        for name in _SIGNS:
            if (bound := getattr(constraint, name, None)) is not None:
                bounds[name] = bound
    return bounds


def _either(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _as_yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_as_yaml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_as_yaml(item)}' for key, item in value.items())}}}"
    if isinstance(value, BaseModel):
        return _as_yaml(value.model_dump(mode="json"))
    return str(value) if str(value) and str(value).isprintable() else repr(str(value))
