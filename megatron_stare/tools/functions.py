"""Functions and classes as tools.

A function is called with the arguments; of a class, each sample has an object, whose method `call`
is the function. They run in the trainer's process, each call on a thread of its own: one that does
not return by its deadline is left alone, and its call is a failure. So is one that raises an
`OSError`, which is what the machine or a server said. What else is raised is told to the model.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from megatron_stare.errors import without_surrogates
from megatron_stare.tools.signature import Signature
from megatron_stare.tools.tool import Arguments, ToolResult

_MAX_LEFT = 64
"""Calls that have not returned, with which a tool is taken for broken."""


class FunctionTool:
    """A function or a class by a name.

    Raises:
        ValueError: it is neither, or its arguments cannot be described.
    """

    def __init__(self, target: Callable[..., Any], name: str) -> None:
        self.name = name
        self.target = target
        self.remembers = isinstance(target, type)
        function = getattr(target, "call", None) if self.remembers else target
        if not callable(function):
            kind = "a class without a method `call`" if self.remembers else type(target).__name__
            raise ValueError(f"it is {kind}, expected a function, or a class with that method")
        self.signature = Signature(function, name, is_method=self.remembers)
        self.threads = _Threads()

    @property
    def schema(self) -> dict[str, Any]:
        """As chat templates take it."""
        return self.signature.schema

    def start(self) -> None:
        """Nothing is needed."""

    def session(self, log: Sequence[Arguments] = ()) -> _Session:
        """Of a class with an object of its own, which first answers the calls of `log` again."""
        return _Session(self, log)

    def close(self) -> None:
        """Nothing is held."""


class _Session:
    def __init__(self, tool: FunctionTool, log: Sequence[Arguments]) -> None:
        self._log = list(log)
        self._tool = tool
        self._function = None if tool.remembers else tool.target

    def call(self, arguments: Arguments, deadline_s: float) -> ToolResult:
        start = time.monotonic()
        try:
            checked = self._tool.signature.check(arguments)
        except ValueError as error:
            return ToolResult(str(error), ok=False)
        outcome = self._tool.threads.run(lambda: self._ready()(**checked), deadline_s)
        if self._tool.remembers and not isinstance(outcome, _Failed):
            self._log.append(dict(arguments))
        return _as_result(outcome, time.monotonic() - start)

    def close(self) -> None:
        self._function = None

    def _ready(self) -> Callable[..., Any]:
        """The function, of an object that stands where the log ends."""
        if self._function is None:
            function = self._tool.target().call
            for arguments in self._log:
                try:
                    function(**self._tool.signature.check(arguments))
                except OSError:
                    raise
                except Exception:  # As it did when the model was told.
                    continue
            self._function = function
        return self._function


class _Failed(str):
    """Why a function could not do its work."""


class _Threads:
    """Runs functions, each on a thread of its own that need not come back."""

    def __init__(self) -> None:
        self._left: list[threading.Thread] = []

    def run(self, function: Callable[[], Any], deadline_s: float) -> Any:
        """What it returns, the exception that it raises, or `_Failed`."""
        self._left = [thread for thread in self._left if thread.is_alive()]
        if len(self._left) >= _MAX_LEFT:
            return _Failed(f"{_MAX_LEFT} calls before have not returned")
        outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()
        thread = threading.Thread(target=lambda: outcomes.put(_outcome(function)), daemon=True)
        thread.start()
        try:
            return outcomes.get(timeout=deadline_s)
        except queue.Empty:
            self._left.append(thread)
            return _Failed(f"did not return within {deadline_s:g} s")


def _outcome(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except OSError as error:
        return _Failed(f"{type(error).__name__}: {error}")
    except BaseException as error:  # SystemExit, too, is the function's answer here.
        return error


def _as_result(outcome: Any, seconds: float) -> ToolResult:
    if isinstance(outcome, _Failed):
        return ToolResult("the tool is out of order", False, str(outcome), seconds)
    if isinstance(outcome, BaseException):
        return ToolResult(_text(f"{type(outcome).__name__}: {outcome}"), False, None, seconds)
    return ToolResult(_text(outcome), ok=True, seconds=seconds)


def _text(value: Any) -> str:
    r"""For a tokenizer: a string as it is, but for halves of characters; else JSON.

    >>> _text({"a": 1}), _text(None), _text("\ud800")
    ('{"a": 1}', '', '?')
    """
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return without_surrogates(text)
