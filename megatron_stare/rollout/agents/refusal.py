"""Why a request of an agent is not answered."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """An answer of HTTP that is none of the model's: by default, what the client did wrong."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI's API writes errors."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}
