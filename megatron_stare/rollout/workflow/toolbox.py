"""The tools of a run, and calls of them on threads, each within its deadline.

A call that fails for a reason that is not the model's is made again, in a new session that begins
with the calls before it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from megatron_stare.rollout.bank import Key
from megatron_stare.rollout.workflow.workflow import Call, Calls
from megatron_stare.tools.tool import Session, Tool, ToolResult

_THREADS = 64
"""They wait: how many runs of code there are at a time is the tool's own affair."""


class Toolbox:
    """Tools by name. `report` is told how often calls failed, and why."""

    def __init__(
        self,
        tools: Mapping[str, Tool],
        *,
        deadline_s: float,
        max_attempts: int,
        report: Callable[[str], None],
    ) -> None:
        self._tools = tools
        self._deadline_s = deadline_s
        self._max_attempts = max_attempts
        self._report = report
        self._failures: Counter[str] = Counter()
        """Of calls, by tool and cause, since they were reported."""
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """What a model calls them by."""
        return list(self._tools)

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """As chat templates take them."""
        return [tool.schema for tool in self._tools.values()]

    def start(self) -> None:
        """Have all of them ready; UserError where one cannot work here."""
        for tool in self._tools.values():
            tool.start()

    def close(self) -> None:
        """End what they hold."""
        for tool in self._tools.values():
            tool.close()

    @contextmanager
    def open_hands(self) -> Iterator[Hands]:
        """For the episodes of one call; what still runs at its end is not waited for."""
        hands = Hands(self)
        try:
            yield hands
        finally:
            hands.close()
            with self._lock:  # A call that is not waited for may fail now.
                failures, self._failures = self._failures, Counter()
            if failures:
                named = ", ".join(f"{n} with {cause}" for cause, n in failures.most_common(3))
                self._report(f"{failures.total()} calls of tools failed: {named}")

    def answer(self, sessions: dict[str, Session], calls: Calls) -> list[ToolResult]:
        """A result of each call, in their order; they are made at the same time.

        But those of a tool that remembers come one after the other, and none after a failure.
        """
        results, lanes = dict[int, ToolResult](), dict[Any, list[int]]()
        for place, call in enumerate(calls.calls):
            if call.problem:
                results[place] = ToolResult(call.problem, ok=False)
            else:
                key = call.name if self._tools[call.name].remembers else place
                lanes.setdefault(key, []).append(place)
        with ThreadPoolExecutor(max(len(lanes), 1), thread_name_prefix="calls") as threads:
            for found in threads.map(
                lambda lane: self._lane(sessions, calls, lane), lanes.values()
            ):
                results |= found
        return [results[place] for place in sorted(results)]

    def _lane(
        self, sessions: dict[str, Session], calls: Calls, lane: Sequence[int]
    ) -> dict[int, ToolResult]:
        """Results of calls that come one after the other, by their places in the turn."""
        done, results = list(calls.before), dict[int, ToolResult]()
        for place in lane:
            call = calls.calls[place]
            if self._tools[call.name].remembers:
                results[place] = self._answer_one(sessions, call, done)
            else:
                own: dict[str, Session] = {}
                results[place] = self._answer_one(own, call, ())
                for session in own.values():
                    session.close()
            done.append(call)
            if results[place].failure is not None:
                break
        return results

    def _answer_one(
        self, sessions: dict[str, Session], call: Call, before: Sequence[Call]
    ) -> ToolResult:
        log = [one.arguments for one in before if one.name == call.name]
        seconds, result = 0.0, ToolResult("", ok=False)
        for _ in range(self._max_attempts):
            if call.name not in sessions:
                sessions[call.name] = self._tools[call.name].session(log)
            result = sessions[call.name].call(call.arguments, self._deadline_s)
            seconds += result.seconds
            if result.failure is None:
                break
            with self._lock:
                self._failures[f"{call.name}: {result.failure}"] += 1
            sessions.pop(call.name).close()
        return replace(result, seconds=seconds)


class Hands:
    """Sessions and threads of the episodes of one call."""

    def __init__(self, toolbox: Toolbox) -> None:
        self._toolbox = toolbox
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="tools")
        self._sessions: dict[Key, dict[str, Session]] = {}
        self._lock = threading.Lock()
        self._at_work: set[Key] = set()
        self._is_closed = False
        self._tell: Callable[[], None] = lambda: None

    def when_done(self, tell: Callable[[], None]) -> None:
        """Have somebody told, from a thread, whenever calls are answered; now, of those before."""
        self._tell = tell
        tell()

    def call(self, key: Key, calls: Calls, give: Callable[[list[ToolResult]], None]) -> None:
        """Answer an episode's calls on a thread, and `give` it the results there."""
        sessions = self._sessions.setdefault(key, {})
        self._at_work.add(key)
        self._threads.submit(self._work, key, sessions, calls, give)

    def let_go(self, key: Key) -> None:
        """An episode has ended."""
        for session in self._sessions.pop(key, {}).values():
            session.close()

    def close(self) -> None:
        """Begin no call, and close the sessions of episodes that wait for none."""
        with self._lock:
            self._is_closed = True
            idle = self._sessions.keys() - self._at_work
        self._threads.shutdown(wait=False, cancel_futures=True)
        for key in idle:
            self.let_go(key)

    def _work(
        self,
        key: Key,
        sessions: dict[str, Session],
        calls: Calls,
        give: Callable[[list[ToolResult]], None],
    ) -> None:
        try:
            results = self._toolbox.answer(sessions, calls)
        except Exception as error:  # A tool's own mistake is no answer, and nobody waits in vain.
            results = [ToolResult("", False, f"{type(error).__name__}: {error}")]
        with self._lock:
            self._at_work.discard(key)
            if not self._is_closed:
                give(results)
                self._tell()
                return
        for session in sessions.values():
            session.close()
