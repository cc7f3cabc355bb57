"""YAML and dotted overrides in, a checked config out; and back, as YAML and as help text."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from megatron_stare.config.yaml_text import read_text, read_yaml
from megatron_stare.config_words import default_in_words, kind_in_words, takes
from megatron_stare.errors import UserError
from megatron_stare.system.reading import open_file
from megatron_stare.system.settings import Settings

_MAX_CHARACTERS = 1 << 20
_MAX_PROBLEMS = 10
_MAX_SHOWN = 120
_NAME = "NAME"
"""In the place of a name that a config gives to a section."""
_EXPECTED = {
    "model_type": "a section of keys",
    "path_type": "a path",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a mapping",
}
"""Of pydantic's kinds of errors, those that it words for programmers."""


def load_config[ConfigT: BaseModel](
    kind: type[ConfigT], path: Path | None, overrides: Sequence[str] = ()
) -> ConfigT:
    """Read `path`, if there is one, apply overrides such as `optim.lr=1e-6`, check, and freeze.

    >>> from megatron_stare import TrainConfig
    >>> overrides = ["model.path=m", "data.path=d.jsonl", "optim.lr=2e-6"]
    >>> load_config(TrainConfig, None, overrides).optim.lr
    2e-06

    Raises:
        UserError: one line per problem, each naming the key, the value and what was expected.
    """
    tree = {} if path is None else _read_file(path)
    _apply(tree, overrides, kind)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        place = "" if path is None else f"{path}: "
        problems = error.errors(include_url=False)
        lines = [f"{place}{_explain(kind, problem)}" for problem in problems[:_MAX_PROBLEMS]]
        if len(problems) > len(lines):
            lines.append(f"{place}... and {len(problems) - len(lines):,} problems more")
        raise UserError("\n".join(lines)) from None


def load_one_of[ConfigT: BaseModel](
    kinds: Mapping[str, type[ConfigT]], path: Path, overrides: Sequence[str] = ()
) -> ConfigT:
    """`load_config` of the kind whose own section is there, by the section's name.

    Without such a section it is the first kind.

    Raises:
        UserError: there are those of two kinds; and as `load_config`.
    """
    of_overrides = {override.partition("=")[0].partition(".")[0] for override in overrides}
    sections = {*_read_file(path), *of_overrides}
    own = [name for name in kinds if name in sections] or [*kinds][:1]
    if len(own) > 1:
        raise UserError(f"{path}: has sections {' and '.join(own)}, expected one command's")
    return load_config(kinds[own[0]], path, overrides)


def sections_of(path: Path) -> set[str]:
    """The sections that a config file has.

    Raises:
        UserError: it cannot be read.
    """
    return {*_read_file(path)}


def to_yaml(config: BaseModel) -> str:
    """The resolved config, every key spelled out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def describe(kind: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    """Every key in reading order: (dotted key, what it takes, default, help)."""
    for key, field in _documented(kind):
        text = " ".join((field.description or "").split())
        yield key, takes(key, field), default_in_words(field), text


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with open_file(path, "r", encoding="utf-8") as file:
            text = file.read(_MAX_CHARACTERS + 1)
        if len(text) > _MAX_CHARACTERS:
            raise UserError(f"{path}: expected a config, found more than {_MAX_CHARACTERS:,} bytes")
        tree = read_yaml(text)
    except OSError as error:
        raise UserError(f"{path}: cannot read the config ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping of sections, found {type(tree).__name__}")
    return tree


def _apply(tree: dict[str, Any], overrides: Sequence[str], kind: type[BaseModel]) -> None:
    """Set what each override says, in their order: of two for a key the last counts."""
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not all(key.split(".")):
            raise UserError(f"override {_shown(override)}: expected section.key=value")
        try:
            parsed = read_text(value) if _is_text(kind, key) else read_yaml(value)
        except ValueError as error:
            raise UserError(
                f"override {_shown(override)}: {_shown(value)} is not a YAML value ({error})"
            ) from None
        _set(tree, key.split("."), parsed, override)


def _set(tree: dict[str, Any], keys: Sequence[str], value: Any, override: str) -> None:
    for depth, parent in enumerate(keys[:-1], start=1):
        if tree.get(parent) is None:
            tree[parent] = {}
        tree = tree[parent]
        if not isinstance(tree, dict):
            section = ".".join(keys[:depth])
            raise UserError(
                f"override {_shown(override)}: {section} is {_shown(tree)}, expected a section"
            )
    tree[keys[-1]] = value


def _explain(kind: type[BaseModel], problem: Any) -> str:
    key = _cut(".".join(str(part) for part in problem["loc"]))
    found = _shown(problem["input"])
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key (value {found}){_suggestion(kind, key)}"
    if problem["type"] == "missing":
        return f"{key}: missing, and it has no default"
    if problem["type"] in _EXPECTED:
        return f"{key}: expected {_EXPECTED[problem['type']]}, found {found}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: {message[0].lower()}{message[1:]}, found {found}"


def _shown(value: Any) -> str:
    """As a config has it, on one line, and not too long."""
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else _cut(repr(value))


def _cut(text: str) -> str:
    if not text.isprintable():
        text = repr(text)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _suggestion(kind: type[BaseModel], key: str) -> str:
    known = [name for name, _ in _documented(kind, key)] + [name for name, _ in sections(kind)]
    section, dot, leaf = key.rpartition(".")
    if not any(name.startswith(section + dot) for name in known):
        return ""  # Of a user's part, whose keys are not known here.
    same = [name for name in known if name.rpartition(".")[2] == leaf]
    close = difflib.get_close_matches(key, same or known, n=1, cutoff=0.0 if same else 0.5)
    return f"; did you mean {close[0]}?" if close else ""


def sections(kind: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The groups of keys of a config, by name."""
    for name, field in kind.model_fields.items():
        if (section := _section(field.annotation)) is not None:
            yield name, section


def leaves(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key that is no section, dotted, with its field."""
    for name, field in kind.model_fields.items():
        section = _section(field.annotation)
        if section is None:
            yield prefix + name, field
        else:
            yield from leaves(section, f"{prefix}{name}.")
    if issubclass(kind, Settings):
        for name, section in kind.sections_beside().items():
            yield from leaves(section, f"{prefix}{name}.")


def _documented(
    kind: type[BaseModel], key: str = "", prefix: str = ""
) -> Iterator[tuple[str, FieldInfo]]:
    """`leaves`, with the keys of sections that stand under a name: under that of `key`."""
    for name, field in leaves(kind, prefix):
        yield name, field
        if (section := _named_section(field.annotation)) is not None:
            own = key.removeprefix(f"{name}.").partition(".")[0] if key.startswith(name) else _NAME
            yield from _documented(section, key, f"{name}.{own}.")


def _is_text(kind: type[BaseModel], key: str) -> bool:
    """Whether the value of a key is one text."""
    field = _field(kind, key)
    return field is not None and kind_in_words(field.annotation) in ("text", "text, or null")


def _field(kind: type[BaseModel], key: str) -> FieldInfo | None:
    """Of `_documented`, the field of a key."""
    name, _, rest = key.partition(".")
    field = kind.model_fields.get(name)
    if field is not None:
        section, named = _section(field.annotation), _named_section(field.annotation)
    else:
        beside = kind.sections_beside() if issubclass(kind, Settings) else {}
        section, named = beside.get(name), None
    if named is not None and rest:
        return _field(named, rest.partition(".")[2])
    if section is not None:
        return _field(section, rest)
    return None if rest else field


def _named_section(annotation: Any) -> type[BaseModel] | None:
    """What stands under each name of a key that holds sections by name."""
    section = get_args(annotation)[-1] if get_origin(annotation) is dict else None
    return section if isinstance(section, type) and issubclass(section, BaseModel) else None


def _section(annotation: Any) -> type[BaseModel] | None:
    is_optional = get_origin(annotation) in (Union, UnionType)
    for candidate in get_args(annotation) if is_optional else (annotation,):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
