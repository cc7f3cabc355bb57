"""Extreme values of a config's numbers, made of the models themselves: a new key has its own."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from megatron_stare.config_io import leaves
from megatron_stare.config_words import bounds_of
from megatron_stare.system.values import scalar_types


def numbers(kind: type[BaseModel]) -> Iterator[tuple[str, dict[str, float]]]:
    for key, field in leaves(kind):
        if set(scalar_types(field.annotation)) & {int, float}:
            yield key, bounds_of(field.annotation, field.metadata)


def extremes(bounds: dict[str, float]) -> Iterator[str]:
    """The least and the largest value that bounds allow, as YAML."""
    for name in ("ge", "le"):
        if name in bounds:
            yield repr(bounds[name])
    if "gt" in bounds:
        yield repr(bounds["gt"] + 1e-300) if not bounds["gt"] else repr(bounds["gt"] * 1.0000001)
    if "lt" in bounds:
        yield repr(bounds["lt"] - 1)
