"""A SandboxFusion server as the place where a model's code runs: its `POST /run_code`.

https://bytedance.github.io/SandboxFusion: the server runs code in a process of its own and answers
with a `status`. `Success` and `Failed` are what the code did; `SandboxError`, any other answer, and
none, are the server's doing. Those are asked for again, while attempts and time are left.
"""

from __future__ import annotations

import json
import time
from typing import Any

import httpx

from megatron_stare.tools.sandbox.confine import Limits
from megatron_stare.tools.sandbox.pool import Run, SandboxFailure

_GRACE_S = 5.0
_FIRST_PAUSE_S = 0.1
_MAX_ANSWER_BYTES = 64 << 20


class FusionSandbox:
    """Runs code on a server, for any number of threads.

    Args:
        url: scheme, host and port.
        max_attempts: requests for one run.
    """

    def __init__(self, url: str, limits: Limits, *, max_attempts: int) -> None:
        self._url = f"{url}/run_code"
        self._limits = limits
        self._max_attempts = max_attempts
        unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.Client(limits=unlimited, trust_env=False)

    def run(self, code: str, deadline_s: float) -> Run:
        """Run code as `python main.py` would, for so many seconds at most, each attempt.

        Raises:
            SandboxFailure: no attempt brought what the code did.
        """
        deadline = time.monotonic() + deadline_s + _GRACE_S
        pause_s = _FIRST_PAUSE_S
        for attempt in range(1, self._max_attempts + 1):
            if self._client.is_closed:
                raise SandboxFailure("the sandbox is closed")
            try:
                return self._ask(code, deadline_s, deadline - time.monotonic())
            except (SandboxFailure, httpx.HTTPError, ValueError, RuntimeError) as error:
                reason = f"{self._url}: {error or type(error).__name__}"
            if attempt == self._max_attempts or time.monotonic() + pause_s >= deadline:
                raise SandboxFailure(f"{reason} (attempt {attempt} of {self._max_attempts})")
            time.sleep(pause_s)
            pause_s *= 2
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close its connections, also while another thread has code run."""
        self._client.close()

    def _ask(self, code: str, deadline_s: float, patience_s: float) -> Run:
        request = {
            "code": code,
            "language": "python",
            "run_timeout": deadline_s,
            "memory_limit_MB": self._limits.memory_bytes >> 20,
        }
        start = time.monotonic()
        content = b""
        with self._client.stream("POST", self._url, json=request, timeout=patience_s) as answer:
            for part in answer.iter_bytes():
                content += part
                if len(content) > _MAX_ANSWER_BYTES:
                    raise SandboxFailure(f"its answer has more than {_MAX_ANSWER_BYTES:,} bytes")
                if time.monotonic() - start > patience_s:
                    raise SandboxFailure(f"it did not answer within {patience_s:.1f} s")
        if answer.status_code != 200:
            raise SandboxFailure(f"it answered {answer.status_code}")
        return self._read(json.loads(content), time.monotonic() - start)

    def _read(self, answer: Any, seconds: float) -> Run:
        match answer:
            case {"status": "Success" | "Failed", "run_result": {"status": str(status)} as result}:
                pass
            case {"status": "SandboxError"}:
                raise SandboxFailure(f"its sandbox failed: {answer.get('message', '')!s:.200}")
            case _:
                raise SandboxFailure(f"not an answer to run_code: {answer!s:.200}")
        output = f"{result.get('stdout') or ''}{result.get('stderr') or ''}"
        cut = output.encode(errors="replace")[: self._limits.output_bytes]
        return_code = result.get("return_code")
        if status == "TimeLimitExceeded":
            ending = "time"
        elif status == "Finished":
            ending = "raised" if return_code else "done"
        else:
            raise SandboxFailure(f"its run ended as {status!r:.40}")
        return Run(cut.decode(errors="replace"), ending, 0, seconds)
