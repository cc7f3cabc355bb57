"""Makes the problems of a task: `python -m megatron_stare.data.task_process`.

Standard input has `{"task": ..., "settings": ...}`; standard output gets a line of JSON a problem,
`{"question", "answer", "entry"}`, the entry as a literal of Python for the task's own scorer; or at
last `{"error": ..., "of": "task" | "params"}`. What a task prints goes to standard error.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
import os
import random
import signal
import sys
from typing import Any, TextIO

from megatron_stare.system.memory_limit import limit_memory

_SECONDS_TO_IMPORT, _SECONDS_A_PROBLEM = 300, 60
_MEMORY_BYTES = 4 * 2**30
_MESSAGE_CHARACTERS = 200


class Refused(Exception):
    """What cannot be generated, and of which key that is: `task` or `params`."""

    def __init__(self, of: str, message: str) -> None:
        super().__init__(message)
        self.of = of


def main() -> None:
    """Serve the request of standard input."""
    signal.alarm(_SECONDS_TO_IMPORT)  # Its default ends the process, in C code, too.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    try:
        _generate(request["task"], request["settings"], out)
    except Refused as error:
        _write(out, {"error": str(error)[:_MESSAGE_CHARACTERS], "of": error.of})


def _generate(task: str, settings: dict[str, Any], out: TextIO) -> None:
    import numpy as np
    import reasoning_gym  # pyright: ignore[reportMissingImports]
    from reasoning_gym.factory import DATASETS  # pyright: ignore[reportMissingImports]

    limit_memory(_MEMORY_BYTES)
    if task not in DATASETS:
        close = difflib.get_close_matches(task, DATASETS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise Refused("task", f"no such task among {len(DATASETS)}{hint}")
    _check_names(settings, DATASETS[task][1])
    random.seed(settings["seed"])
    np.random.seed(settings["seed"])
    try:
        dataset = reasoning_gym.create_dataset(task, **settings)
    except Exception as error:
        raise Refused("params", f"{task} refuses them ({_said(error)})") from None
    for place in range(settings["size"]):
        signal.alarm(_SECONDS_A_PROBLEM)
        try:
            entry = dataset[place]
        except Exception as error:
            raise Refused(
                "params", f"{task} fails at problem {place + 1} ({_said(error)})"
            ) from None
        _write(out, _problem(task, settings, entry))


def _check_names(settings: dict[str, Any], kind: type) -> None:
    known = [field.name for field in dataclasses.fields(kind)]
    for name in settings:
        if name not in known:
            expected = ", ".join(name for name in known if name not in ("seed", "size"))
            raise Refused("params", f"{name}: unknown, expected some of {expected}")


def _problem(task: str, settings: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    text = repr({"task": task, "settings": settings, "entry": _plain(entry)})
    try:
        is_read_back = ast.literal_eval(text)["entry"] == entry
    except ValueError:
        is_read_back = False
    if not is_read_back:
        raise Refused("task", "its problems hold objects, expected numbers, texts and collections")
    return {"question": entry["question"], "answer": entry["answer"], "entry": text}


def _plain(value: Any) -> Any:
    """With Python's numbers in the place of numpy's."""
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(_plain(each) for each in value)
    return value.item() if type(value).__module__ == "numpy" else value


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _write(out: TextIO, message: dict[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
