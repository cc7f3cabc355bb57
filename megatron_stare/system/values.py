"""Values of a config: what counts as a number, a text or a path, and how large numbers may be.

Bounds stand far beyond what a run can use, and within what its arithmetic, the system's calls and
a float32 can take: what is refused would end in a traceback, or never.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field


def matching(pattern: str, expected: str) -> Callable[[str], str]:
    """A check that all of a text is as the pattern says."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"expected {expected}, found {text!r:.80}")
        return text

    return check


def one_of_or_own(known: Iterable[str], own: str) -> Callable[[str], str]:
    """A check that a text is one of some names, or one of the user's, `package.module:name`."""
    names = (*known,)

    def check(name: str) -> str:
        if name not in names and not re.fullmatch(r"\w+(\.\w+)*:\w+", name):
            raise ValueError(f"expected one of {', '.join(names)}, or {own}, found {name!r:.80}")
        return name

    return check


Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""How many there are, at least one."""
CountOrZero = Annotated[int, Field(ge=0, le=1_000_000_000)]
"""How many there are, perhaps none."""
RankCount = Annotated[int, Field(ge=1, le=100_000)]
"""How many processes share something."""
BatchCount = Annotated[int, Field(ge=1, le=100_000)]
"""How many are generated for one step: work, memory and files grow with it."""
Weight = Annotated[float, Field(ge=0, le=1_000_000)]
"""A factor or a bound that does not change signs."""
PositiveWeight = Annotated[float, Field(gt=0, le=1_000_000)]
"""The same, but not zero."""
Multiple = Annotated[float, Field(ge=1, le=1_000_000)]
"""A factor that makes nothing smaller."""
Seconds = Annotated[float, Field(ge=0.001, le=1_000_000)]
"""A time to wait: the system counts milliseconds in 31 bits, a little more than this."""
Share = Annotated[float, Field(gt=0, le=1)]
"""Of a whole."""
VariableName = Annotated[str, AfterValidator(matching(r"[A-Za-z_]\w*", "a variable's name"))]
"""Of the environment."""
Host = Annotated[str, AfterValidator(matching(r"[\w.:%-]+", "a machine's name or address"))]
"""Of a machine, without a port."""

_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})", re.ASCII)
_LEADING_ZERO = re.compile(r"\s*[-+]?0[0-9_]+\s*")
_SCIENTIFIC = re.compile(r"\s*[-+]?[0-9]+(\.[0-9]*)?[eE]\+?[0-9]{1,3}\s*")
_TRUTH = re.compile(r"true|false|yes|no|on|off|y|n|t|f", re.IGNORECASE)
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 3_000  # Linux allows 4,095, and a run makes folders of its own below.


def expand(value: Any) -> Any:
    """A text or path with `~`, `~user`, `$NAME` and `${NAME}` replaced, as a shell does.

    A `$` that is no variable of the environment's may be part of a name, as in `a$b`.

    Raises:
        ValueError: the system has no such user, or a variable that stands alone between slashes is
            not set.
    """
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    _check_text(text)
    for part in text.split("/"):
        variable = _VARIABLE.fullmatch(part)
        if variable and not os.environ.get(variable[1] or variable[2]):
            raise ValueError(f"{text}: {part} is not set in the environment")
    expanded = os.path.expanduser(os.path.expandvars(text))
    if expanded.startswith("~"):
        home = expanded.partition("/")[0]
        raise ValueError(f"{text}: {home} is no user's home; a folder of that name is ./{home}")
    return expanded


def expand_path(value: Any) -> Any:
    """`expand`, and see that the system can name such a file.

    Raises:
        ValueError: it cannot: the path is empty, or longer than a file's may be.
    """
    expanded = expand(value)
    if not isinstance(expanded, str):
        return expanded
    size = len(os.fsencode(expanded))
    if not expanded:
        raise ValueError("expected a path; the folder that one stands in is `.`")
    longest = max(len(os.fsencode(name)) for name in expanded.split("/"))
    if size > _MAX_PATH_BYTES or longest > _MAX_NAME_BYTES:
        raise ValueError(
            f"expected a path of at most {_MAX_PATH_BYTES} bytes, and {_MAX_NAME_BYTES} between "
            f"slashes, found {size} and {longest}"
        )
    return Path(expanded)


def is_server_url(text: str) -> bool:
    """Whether it is scheme, host and perhaps port of a server, and nothing more.

    >>> is_server_url("http://127.0.0.1:30000"), is_server_url("http://127.0.0.1:30000/v1")
    (True, False)
    """
    try:
        parts = urlsplit(text)
        is_named = bool(parts.hostname) and parts.port != 0
    except ValueError:  # Of a port beyond 65535, or half an IPv6 address.
        return False
    whole = f"{parts.scheme}://{parts.netloc}"
    is_all = text.lower() == whole.lower() and not re.search(r"\s", text)
    return is_named and is_all and parts.scheme in ("http", "https")


FilePath = Annotated[Path, BeforeValidator(expand_path)]
"""A file or folder, with `~` and variables replaced."""
Expanded = Annotated[str, BeforeValidator(expand)]
"""A text in which `~` and variables are replaced."""


def of_kind(value: Any, annotation: Any) -> Any:
    """The value for pydantic, if scalars in it are what they look like where pydantic converts.

    A truth value is no number and a number no truth value; a number with a leading zero is octal
    to some and decimal to others; a text can be encoded. Numbers written as text, such as the
    `1e-6` of YAML 1.1, stay numbers; so does the `1e3` of a count.

    Args:
        annotation: of the field that `value` is for.

    Raises:
        ValueError: one is not; the message names it.
    """
    kinds = set(scalar_types(annotation))
    if any(issubclass(kind, BaseModel) for kind in kinds):
        return value  # A section checks its own.
    is_number = bool(kinds & {int, float}) and not kinds & {str, bool}
    for scalar in _scalars(value):
        if isinstance(scalar, str | Path):
            _check_text(str(scalar))
        if is_number and isinstance(scalar, bool):
            raise ValueError(f"expected a number, found {str(scalar).lower()}")
        if is_number and isinstance(scalar, str) and _LEADING_ZERO.fullmatch(scalar):
            raise ValueError(
                "expected a number without leading zeros, which are octal in YAML 1.1 and decimal "
                f"elsewhere, found {scalar.strip()}"
            )
        if kinds == {bool} and not _is_truth(scalar):
            raise ValueError(f"expected true or false, found {scalar!r}")
    is_count = kinds == {int} and isinstance(value, str) and _SCIENTIFIC.fullmatch(value)
    return float(value) if is_count else value


def _check_text(text: str) -> None:
    if "\0" in text:
        raise ValueError(f"expected text without NUL characters, found {text[:80]!r}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = text[error.start : error.start + 20]
        raise ValueError(f"expected text that UTF-8 can write, found {found!r}") from None


def _is_truth(scalar: Any) -> bool:
    return isinstance(scalar, bool) or (
        isinstance(scalar, str) and _TRUTH.fullmatch(scalar) is not None
    )


def _scalars(value: Any) -> Iterator[Any]:
    """The leaves of nested lists and mappings, without those that are None."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        yield from () if value is None else (value,)
        return
    for item in value:
        yield from _scalars(item)


def scalar_types(annotation: Any) -> Iterator[type]:
    """The types of the values of an annotation such as `dict[str, float] | None`."""
    if isinstance(annotation, type):
        yield from () if annotation is NoneType else (annotation,)
        return
    parts = get_args(annotation)
    for part in parts[1:] if get_origin(annotation) is dict else parts:
        yield from scalar_types(part)
