"""Environments of OpenEnv, which run on servers of their own: a session for each episode.

Over the server's websocket, as its protocol has it: `{"type": "reset" | "step", "data": {...}}`
there, `{"type": "observation" | "error", "data": {...}}` back. Version 0.3 of openenv-core.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from megatron_stare.environments.environment import Start, Step
from megatron_stare.rewards.verdict import one_line

_MAX_BYTES = 1 << 24
_TELLING = 500
"""Characters of what a server says is wrong."""


class OpenEnv:
    """One that listens at a URL.

    Args:
        url: of the server, `http://host:port` or `ws://host:port`.
        text: field of an action that what the model wrote becomes; None takes the last line that
            it wrote for the whole action, a JSON object.
        action: other fields of every action.
        shows: fields of an observation that the model reads, in their order; None shows all.
        start: what a reset is told where the episode begins from (a seed, or a row's text) as.
        reset: what else it is told.
        timeout_s: that the server may take to answer.
    """

    def __init__(
        self,
        url: str,
        text: str | None = None,
        action: Mapping[str, Any] | None = None,
        shows: Sequence[str] | None = None,
        start: str = "seed",
        reset: Mapping[str, Any] | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        scheme, found, address = url.partition("://")
        schemes = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
        if not found or scheme not in schemes or not address.strip("/"):
            raise ValueError(f"url={url!r}: expected http://host:port or ws://host:port")
        self._url = f"{schemes[scheme]}://{address.rstrip('/')}/ws"
        self._text, self._action, self._shows = text, dict(action or {}), shows
        self._start, self._reset = start, dict(reset or {})
        self._timeout_s = timeout_s
        self._connection: ClientConnection | None = None

    def reset(self, start: Start) -> str:
        """In a session of its own."""
        self.close()
        self._connection = connect(
            self._url, open_timeout=self._timeout_s, max_size=_MAX_BYTES, proxy=None
        )
        return self._said(self._asked("reset", {**self._reset, self._start: start}))

    def step(self, text: str) -> Step:
        """What is no action of the environment's the model is told, and earns nothing by."""
        try:
            action = self._action_of(text)
            found = self._asked("step", action)
        except _NotAnAction as problem:
            return Step(str(problem))
        done = bool(found.get("done"))
        if done:
            self.close()
        return Step(self._said(found), float(found.get("reward") or 0.0), done)

    def close(self) -> None:
        """End the session, for others to have its place."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _action_of(self, text: str) -> dict[str, Any]:
        if self._text is not None:
            return {**self._action, self._text: text}
        *_, last = ["", *text.strip().splitlines()]
        try:
            found = json.loads(last)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise _NotAnAction("The last line has to be an action: a JSON object.")
        return {**self._action, **found}

    def _asked(self, kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """The data of what the server answers.

        Raises:
            _NotAnAction: the server does not take the action that the model wrote.
            RuntimeError: it answers with an error, or otherwise than its protocol says.
        """
        assert self._connection is not None, "a step before the first reset"
        try:
            with suppress(ConnectionClosed):  # It may have said why.
                self._connection.send(json.dumps({"type": kind, "data": dict(data)}))
            answer = json.loads(self._connection.recv(timeout=self._timeout_s))
        except ConnectionClosed as closed:
            raise RuntimeError(f"{self._url}: {kind}: the server hung up: {closed}") from None
        found = answer.get("data") if isinstance(answer, dict) else None
        if isinstance(found, dict) and answer.get("type") == "observation":
            return found
        if isinstance(found, dict) and answer.get("type") == "error":
            if kind == "step" and found.get("code") == "VALIDATION_ERROR" and self._text is None:
                raise _NotAnAction(f"This is no action: {_problems(found)}")
            raise RuntimeError(
                f"{self._url}: {kind}: {found.get('code')}: {one_line(_problems(found))}"
            )
        raise RuntimeError(f"{self._url}: {kind}: answered {str(answer)[:_TELLING]}")

    def _said(self, data: Mapping[str, Any]) -> str:
        """The fields that are shown: a text alone as it is, others as JSON behind their names."""
        found = data.get("observation")
        if not isinstance(found, dict):
            raise RuntimeError(f"{self._url}: answered without an observation")
        if missing := set(self._shows or ()) - found.keys():
            raise RuntimeError(
                f"{self._url}: shows={self._shows}: an observation has no {min(missing)!r}, "
                f"expected some of {', '.join(found)}"
            )
        shown = {name: found[name] for name in (self._shows or found)}
        if len(shown) == 1 and isinstance(text := next(iter(shown.values())), str):
            return text
        return "\n".join(f"{name}: {_written(value)}" for name, value in shown.items())


class _NotAnAction(Exception):
    """What the model wrote is none; why, for it to read."""


def _problems(error: Mapping[str, Any]) -> str:
    """What is wrong with an action, by its fields where the server says it."""
    found = error.get("errors")
    if not isinstance(found, list) or not found:
        return str(error.get("message"))[:_TELLING]
    lines = [
        f"{'.'.join(map(str, one.get('loc', ())))}: {one.get('msg')}"
        for one in found
        if isinstance(one, dict)
    ]
    return "; ".join(lines)[:_TELLING]


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
