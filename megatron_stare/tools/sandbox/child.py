"""Running a model's code, as `python main.py` would, in a process that ends with it."""

from __future__ import annotations

import builtins
import linecache
import os
import sys
import traceback
import types
from collections.abc import Sequence
from typing import NoReturn

_NAME = "main.py"
_SEEDED = ("random", "numpy.random", "sympy.core.random")
"""Modules with a generator for all, which every run begins anew."""


def seeded_modules(packages: Sequence[str]) -> list[str]:
    """Those of some packages, and of the standard library."""
    return [name for name in _SEEDED if name.partition(".")[0] in ("random", *packages)]


def run_code(code: str) -> NoReturn:
    """Run code as the main module of this process, and end it: 0, or 1 where it raises."""
    exit_code = 1
    try:
        _prepare()
        exit_code = _run(code)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # What the code has made of the two; the exit code says enough.
        exit_code = 1
    finally:
        os._exit(exit_code)


def _prepare() -> None:
    """What a new process would have: streams, no arguments, no environment, seeds."""
    os.environ.clear()
    sys.argv = [_NAME]
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = sys.stdout
    builtins.__dict__.update(exit=sys.exit, quit=sys.exit)
    for name in _SEEDED:
        if name in sys.modules:
            vars(sys.modules[name])["seed"](0)


def _run(code: str) -> int:
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    linecache.cache[_NAME] = (len(code), None, f"{code}\n".splitlines(keepends=True), _NAME)
    try:
        exec(compile(code, _NAME, "exec"), vars(main))
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return int(bool(error.code))
        print(error.code)
        return 1
    except BaseException as error:
        _explain(error)
        return 1
    return 0


def _explain(error: BaseException) -> None:
    """The traceback, from the code's own frames on."""
    own = error.__traceback__
    while own is not None and own.tb_frame.f_code.co_filename != _NAME:
        own = own.tb_next
    traceback.print_exception(type(error), error, own)
