"""States of parts between steps: frozen dataclasses of plain values, saved by the part's name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from megatron_stare.errors import UserError


def to_plain(states: Mapping[str, Any]) -> dict[str, Any]:
    """As plain values, None for a part without a state."""
    return {name: None if state is None else _fields(state) for name, state in states.items()}


def _fields(state: Any) -> dict[str, Any]:
    # Not `asdict`, which would copy all that a state remembers: it is never changed in place.
    return {field.name: getattr(state, field.name) for field in fields(state)}


def from_plain(key: str, saved: Mapping[str, Any], states: Mapping[str, Any]) -> dict[str, Any]:
    """The states that were saved.

    Args:
        key: of the config, that names the parts.
        states: of the run's parts, of any step.

    Raises:
        UserError: they are of other parts, or of other versions of them.
    """
    if list(saved) != list(states):
        raise UserError(
            f"{key}={listed(states)}: the run has been trained with {listed(saved)}; "
            "go on with these, or begin anew (run.resume=never)"
        )
    return {name: _restored(key, name, states[name], values) for name, values in saved.items()}


def _restored(key: str, name: str, state: Any, values: Any) -> Any:
    expected = [field.name for field in fields(state)] if is_dataclass(state) else None
    found = None if values is None else list(values)
    if found != expected:
        raise UserError(
            f"{key}: the state of {name} was saved as {found}, expected {expected}; "
            "it is of another version of this part"
        )
    return None if values is None else type(state)(**values)


def listed(names: Iterable[str]) -> str:
    """As a config has them."""
    return f"[{', '.join(names)}]"
