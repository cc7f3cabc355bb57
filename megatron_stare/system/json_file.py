"""JSON files that others wrote: what is wrong with one is a `UserError`, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megatron_stare.errors import UserError
from megatron_stare.system.reading import read_whole


def read_json(path: Path, expected: str) -> Any:
    """The value in a file.

    Args:
        expected: what it should hold, for messages.

    Raises:
        UserError: it is not there, cannot be read, is not JSON, or has a key twice in an object.
    """
    try:
        return json.loads(read_whole(path), object_pairs_hook=_without_repeats)
    except FileNotFoundError:
        problem = "no such file"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    except RecursionError:
        problem = "not valid JSON (too many levels)"
    except ValueError as error:
        problem = f"not valid JSON ({error})"
    raise UserError(f"{path}: {problem}; expected {expected}")


def read_object(path: Path, expected: str) -> dict[str, Any]:
    """The same, of a file that should hold an object.

    Raises:
        UserError: as `read_json`; or it holds something else.
    """
    content = read_json(path, expected)
    if not isinstance(content, dict):
        found = type(content).__name__
        raise UserError(f"{path}: expected {expected}, as a JSON object, found {found}")
    return content


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:80]!r} stands twice")
    return found
