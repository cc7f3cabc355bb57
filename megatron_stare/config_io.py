"""YAML and dotted overrides in, a checked config out; and back, as YAML and as help text."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from megatron_stare.errors import UserError


def load_config[ConfigT: BaseModel](
    kind: type[ConfigT], path: Path, overrides: Sequence[str] = ()
) -> ConfigT:
    """Read `path`, apply overrides such as `optim.lr=1e-6`, check, and freeze.

    Raises:
        UserError: one line per problem, each naming the key, the value and what was expected.
    """
    tree = _read_yaml(path)
    for override in overrides:
        _apply(tree, override)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(kind, problem) for problem in error.errors()]
        raise UserError("\n".join(f"{path}: {line}" for line in lines)) from None


def to_yaml(config: BaseModel) -> str:
    """The resolved config, every key spelled out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def describe(kind: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    """Every key in reading order: (dotted key, type, default, help)."""
    for key, field in _leaves(kind):
        default = "required" if field.is_required() else str(field.get_default())
        yield key, _type_name(field.annotation), default, (field.description or "").strip()


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot read the config ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping of sections, found {type(tree).__name__}")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"override {override!r}: expected section.key=value")
    *parents, leaf = key.split(".")
    for parent in parents:
        if not isinstance(tree.get(parent), dict):
            tree[parent] = {}
        tree = tree[parent]
    try:
        tree[leaf] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"override {override!r}: {value!r} is not a YAML value") from None


def _explain(kind: type[BaseModel], problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key (value {problem['input']!r}){_suggestion(kind, key)}"
    if problem["type"] == "missing":
        return f"{key}: missing, and it has no default"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: {message[0].lower()}{message[1:]}, found {problem['input']!r}"


def _suggestion(kind: type[BaseModel], key: str) -> str:
    known = [name for name, _ in _leaves(kind)] + _section_names(kind)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if not close:
        leaf = key.rsplit(".", 1)[-1]
        close = [name for name in known if name.rsplit(".", 1)[-1] == leaf][:1]
    return f"; did you mean {close[0]}?" if close else ""


def _section_names(kind: type[BaseModel]) -> list[str]:
    return [name for name, field in kind.model_fields.items() if _section(field.annotation)]


def _leaves(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in kind.model_fields.items():
        section = _section(field.annotation)
        if section is None:
            yield prefix + name, field
        else:
            yield from _leaves(section, f"{prefix}{name}.")


def _section(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _type_name(annotation: Any) -> str:
    name = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return name.replace("typing.", "").replace("pathlib._local.", "").replace("pathlib.", "")
