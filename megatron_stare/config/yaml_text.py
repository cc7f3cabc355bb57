"""YAML of a config, without its traps.

Plain values are what YAML 1.1 makes of them, and PyYAML, but for these: numbers with leading zeros
or colons (`017` is 15 there, and `3:20` 200) and dates are text. A key stands once, and aliases
share nothing. What is no config, such as a vocabulary given by mistake or aliases that multiply,
is refused after some thousands of values.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import yaml

_MAX_VALUES = 10_000
_MAX_DEPTH = 50
_MAX_DIGITS = 100  # Python itself does not print integers of thousands.

_TAG = "tag:yaml.org,2002:"
_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_TRUE = {"true", "yes", "on"}
_KINDS: dict[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    "null": (re.compile(r"|~|null|Null|NULL"), lambda text: None),
    "bool": (re.compile(r"(?i:true|false|yes|no|on|off)"), lambda text: text.lower() in _TRUE),
    "int": (
        re.compile(r"[-+]?(0|[1-9][0-9_]*|0b[01]+|0x[0-9a-fA-F]+)"),
        lambda text: int(text.replace("_", ""), base=0),
    ),
    "float": (
        re.compile(
            r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+][0-9]+)?"
            r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
        ),
        lambda text: float(re.sub(r"_|\.(?=[iInN])", "", text)),
    ),
}
"""What a plain value is where a pattern matches all of it, and how it is made; else it is text."""


def read_yaml(text: str) -> Any:
    """The value of a YAML document; None of an empty one.

    >>> read_yaml("{a: &x {lr: 1.0e-5, mode: 017}, b: {<<: *x, lr: 2}}")
    {'a': {'lr': 1e-05, 'mode': '017'}, 'b': {'lr': 2, 'mode': '017'}}

    Raises:
        ValueError: it is not valid, has a key twice, or more values or levels than a config; the
            message is one line, and names line and key.
    """
    try:
        return _Reader(_LOADER(text)).document()
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(where + ", ".join(filter(None, (error.context, error.problem)))) from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def read_text(value: str) -> Any:
    r"""The value of a key that is for a text: what YAML has marks for may stand in it unquoted.

    >>> read_text("Q: {prompt} #1"), read_text('"{prompt}\\n"'), read_text("null")
    ('Q: {prompt} #1', '{prompt}\n', None)

    Raises:
        ValueError: it begins as quoted text or as a block (`|`, `>`), and is not valid.
    """
    text = value.strip()
    if text.startswith(("'", '"', "|", ">")):
        return read_yaml(value)
    try:
        parsed = read_yaml(value)
    except ValueError:
        return text
    is_cut = isinstance(parsed, str) and " #" in text
    return text if is_cut or isinstance(parsed, dict) else parsed


class _Reader:
    """Makes values of a parser's events."""

    def __init__(self, parser: yaml.SafeLoader | yaml.CSafeLoader) -> None:
        self._parser: Any = parser  # Its stubs say of every event that there may be none.
        self._anchors: dict[str, Any] = {}
        self._left = _MAX_VALUES

    def document(self) -> Any:
        """The value of the only one."""
        self._parser.get_event()  # The stream's start.
        if self._parser.check_event(yaml.StreamEndEvent):
            return None
        self._parser.get_event()
        value = self._value(key="", depth=0)
        self._parser.get_event()
        if not self._parser.check_event(yaml.StreamEndEvent):
            raise _error(self._parser.get_event(), "expected one document, found a second")
        return value

    def _value(self, key: str, depth: int) -> Any:
        event = self._parser.get_event()
        if depth > _MAX_DEPTH:
            raise _error(event, f"expected a config, found more than {_MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        self._spend(event, 1)
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(event, key, depth)
        else:
            value = self._mapping(event, key, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = value
        return value

    def _alias(self, event: yaml.AliasEvent) -> Any:
        if event.anchor not in self._anchors:
            raise _error(event, f"alias *{event.anchor} has no anchor before it")
        value = self._anchors[event.anchor]
        self._spend(event, _size(value))
        return deepcopy(value)

    def _spend(self, event: yaml.Event, num_values: int) -> None:
        self._left -= num_values
        if self._left < 0:
            raise _error(event, f"expected a config, found more than {_MAX_VALUES:,} values")

    def _sequence(self, start: yaml.SequenceStartEvent, key: str, depth: int) -> list[Any]:
        _check_tag(start, "seq")
        values = []
        while not self._parser.check_event(yaml.SequenceEndEvent):
            values.append(self._value(key, depth + 1))
        self._parser.get_event()
        return values

    def _mapping(self, start: yaml.MappingStartEvent, parent: str, depth: int) -> dict[str, Any]:
        _check_tag(start, "map")
        merged: dict[str, Any] = {}
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        while not self._parser.check_event(yaml.MappingEndEvent):
            event = self._parser.peek_event()
            name = self._value(parent, depth + 1)
            if not isinstance(name, str):
                raise _error(event, f"expected a name for a key, found {str(name)[:80]}; quote it")
            key = f"{parent}.{name}" if parent else name
            if name in lines:
                raise _error(event, f"{key[:120]} stands twice, first in line {lines[name]}")
            lines[name] = event.start_mark.line + 1
            value = self._value(key, depth + 1)
            if name == "<<" and _is_plain(event):
                merged = _merged(event, value)
            else:
                values[name] = value
        self._parser.get_event()
        return merged | values


def _scalar(event: yaml.ScalarEvent) -> Any:
    tagged = (event.tag or "").removeprefix(_TAG)
    if tagged in _KINDS:
        kinds = [_KINDS[tagged]]
    elif _is_plain(event):
        kinds = list(_KINDS.values())
    else:
        _check_tag(event, "str")
        return event.value
    for pattern, convert in kinds:
        if len(event.value) <= _MAX_DIGITS and pattern.fullmatch(event.value):
            return convert(event.value)
    return event.value


def _is_plain(event: yaml.Event) -> bool:
    return isinstance(event, yaml.ScalarEvent) and event.implicit[0]


def _merged(event: yaml.Event, value: Any) -> dict[str, Any]:
    """What `<<` brings: of several mappings, the first that has a key gives its value."""
    merged: dict[str, Any] = {}
    for source in value if isinstance(value, list) else [value]:
        if not isinstance(source, dict):
            raise _error(event, f"<<: expected a mapping or a list of them, found {source!r:.80}")
        merged = source | merged
    return merged


def _size(value: Any) -> int:
    """Of a value and all that is in it."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_size, items))


def _check_tag(event: Any, kind: str) -> None:
    if event.tag not in (None, "!", _TAG + kind):
        raise _error(event, f"{event.tag[:80]!r} is no type of a config's values")


def _error(event: yaml.Event, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
