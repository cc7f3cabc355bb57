"""The endpoint: chat completions over HTTP, for as many episodes as have a key.

A thread a connection, which waits for the engine. Everything is of loopback unless told otherwise,
and nothing is answered without the key of an episode that is under way.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from megatron_stare.errors import UserError
from megatron_stare.rollout.agents.protocol import (
    ChatAnswer,
    ChatRequest,
    chunks,
    completion,
    read_request,
)
from megatron_stare.rollout.agents.refusal import Refusal

_MOST_BYTES = 32 << 20
_IDLE_S = 60.0
"""After which a connection that asks for nothing is closed."""
_POLL_S = 0.05

Chat = Callable[[ChatRequest], ChatAnswer]


class Endpoint:
    """Answers `POST /v1/chat/completions` and `GET /v1/models`, from `start` to `close`.

    Raises UserError where it cannot listen there.
    """

    def __init__(self, host: str, port: int, model: str) -> None:
        self.model = model
        self._chats: dict[str, Chat] = {}
        try:
            self._server = _Server((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"workflow.agent.host={host}, port={port}: cannot listen there ({error})"
            ) from None
        self._server.endpoint = self
        self.base_url = f"http://{host}:{self._server.server_address[1]}/v1"
        self._thread = Thread(target=self._server.serve_forever, args=(_POLL_S,), daemon=True)
        self._thread.start()

    def open(self, chat: Chat) -> str:
        """The key of an episode whose requests `chat` answers."""
        key = f"episode-{secrets.token_hex(16)}"
        self._chats[key] = chat
        return key

    def shut(self, key: str) -> None:
        """Answer an episode no more."""
        self._chats.pop(key, None)

    def close(self) -> None:
        """Listen no more; what is being answered is not waited for."""
        self._server.shutdown()
        self._server.server_close()

    def chat_of(self, authorization: str | None) -> Chat:
        """Whose request it is; Refusal where it is nobody's."""
        chat = self._chats.get((authorization or "").removeprefix("Bearer ").strip())
        if chat is None:
            raise Refusal(
                "no episode that is under way has this API key", status=401, code="invalid_api_key"
            )
        return chat


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024
    endpoint: Endpoint

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client has hung up: what it was told stands, and it may ask again."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S
    server: _Server

    def do_POST(self) -> None:
        self._answer(self._complete)

    def do_GET(self) -> None:
        self._answer(self._models)

    def log_message(self, format: str, *args: Any) -> None:
        """Nowhere: an agent's requests are in its sample."""

    def _answer(self, answer: Callable[[], None]) -> None:
        try:
            answer()
        except Refusal as refusal:
            self._send(refusal.status, refusal.body)
        except OSError:
            raise
        except Exception as error:  # A mistake of ours is one answer, too, and no reward.
            body = Refusal(f"{type(error).__name__}: {error}", status=500).body
            self._send(500, body)

    def _complete(self) -> None:
        body = self._body()
        endpoint = self.server.endpoint
        if self.path.partition("?")[0].rstrip("/") != "/v1/chat/completions":
            raise Refusal(f"there is no {self.path[:80]}", status=404)
        chat = endpoint.chat_of(self.headers["Authorization"])
        asked = read_request(body, endpoint.model)
        answer = chat(asked)
        if asked.streams:
            self._stream(chunks(answer, endpoint.model, with_usage=asked.streams_usage))
        else:
            self._send(200, completion(answer, endpoint.model))

    def _models(self) -> None:
        endpoint = self.server.endpoint
        if self.path.partition("?")[0].rstrip("/") != "/v1/models":
            raise Refusal(f"there is no {self.path[:80]}", status=404)
        endpoint.chat_of(self.headers["Authorization"])
        model = {"id": endpoint.model, "object": "model", "created": 0, "owned_by": "run"}
        self._send(200, {"object": "list", "data": [model]})

    def _body(self) -> bytes:
        """All of it, so that the connection can go on whatever is answered."""
        length = self.headers["Content-Length"] or ""
        if not length.isdecimal() or int(length) > _MOST_BYTES:
            self.close_connection = True
            raise Refusal(f"a body of {length or 'unknown'} bytes, expected at most {_MOST_BYTES}")
        return self.rfile.read(int(length))

    def _send(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, parts: Iterable[dict[str, Any]]) -> None:
        lines = [*(json.dumps(part) for part in parts), "[DONE]"]
        content = "".join(f"data: {line}\n\n" for line in lines).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
