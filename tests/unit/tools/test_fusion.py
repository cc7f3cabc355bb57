"""A SandboxFusion server's answers, as they are and as they should not be."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from megatron_stare.config.tools import ToolsConfig
from megatron_stare.errors import UserError
from megatron_stare.tools.fusion import FusionSandbox
from megatron_stare.tools.python import PythonTool
from megatron_stare.tools.sandbox.confine import Limits
from megatron_stare.tools.sandbox.pool import SandboxFailure

LIMITS = Limits(cpu_s=1, memory_bytes=128 << 20, file_bytes=1 << 20, output_bytes=100)


class Server(ThreadingHTTPServer):
    """Runs Python like SandboxFusion, after the answers of `script`: statuses, or what is sent."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[object] = []
        self.requests: list[dict] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"path": self.path, **request})
        answer = self.server.script.pop(0) if self.server.script else run_code(request)
        if answer == "nothing":
            self.close_connection = True
            return
        if isinstance(answer, float):
            time.sleep(answer)
            answer = run_code(request)
        status, content = (answer, b"{}") if isinstance(answer, int) else (200, answer)
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def run_code(request: dict) -> dict:
    """What the server answers to `POST /run_code`."""
    result = {"status": "Finished", "return_code": 0, "stdout": "", "stderr": ""}
    try:
        command = [sys.executable, "-I", "-S", "-c", request["code"]]
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=request["run_timeout"], check=False
        )
        result |= {"return_code": run.returncode, "stdout": run.stdout, "stderr": run.stderr}
    except subprocess.TimeoutExpired as late:
        result |= {"status": "TimeLimitExceeded", "return_code": None}
        result["stdout"] = (late.stdout or b"").decode()
    is_good = result["status"] == "Finished" and result["return_code"] == 0
    return {
        "status": "Success" if is_good else "Failed",
        "message": "",
        "compile_result": None,
        "run_result": {**result, "execution_time": 0.1},
        "executor_pod_name": None,
        "files": {},
    }


SANDBOX_ERROR = {"status": "SandboxError", "message": "no container", "run_result": None}


@pytest.fixture(scope="module")
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def sandbox(server):
    server.script.clear()
    server.requests.clear()
    sandbox = FusionSandbox(server.url, LIMITS, max_attempts=2)
    yield sandbox
    sandbox.close()


@pytest.mark.parametrize(
    ("code", "output", "ending"),
    [
        ("print(1)", "1\n", "done"),
        ("import sys; print(1); print(2, file=sys.stderr)", "1\n2\n", "done"),
        ("raise SystemExit(3)", "", "raised"),
        ("print(1, flush=True)\nwhile True: pass", "1\n", "time"),
        ("print('x' * 200)", "x" * 100, "done"),
    ],
)
def test_what_code_did_is_what_the_server_says(sandbox, code, output, ending):
    run = sandbox.run(code, 0.5)

    assert (run.output, run.ending) == (output, ending)


def test_the_request_is_that_of_the_protocol(sandbox, server):
    sandbox.run("print(1)", 7.5)

    assert server.requests == [
        {
            "path": "/run_code",
            "code": "print(1)",
            "language": "python",
            "run_timeout": 7.5,
            "memory_limit_MB": 128,
        }
    ]


@pytest.mark.parametrize(
    "trouble",
    [500, 503, 429, "nothing", b"<html>", b"[]", SANDBOX_ERROR, {"status": "Success"}],
    ids=str,
)
def test_what_is_not_the_codes_doing_is_tried_again(sandbox, server, trouble):
    server.script[:] = [trouble]

    assert sandbox.run("print(1)", 5).output == "1\n"
    assert len(server.requests) == 2


def test_a_sandbox_that_goes_on_failing_is_a_failure(sandbox, server):
    server.script[:] = [SANDBOX_ERROR] * 3

    with pytest.raises(
        SandboxFailure, match=r"its sandbox failed: no container \(attempt 2 of 2\)"
    ):
        sandbox.run("print(1)", 5)
    assert len(server.requests) == 2


def test_a_server_that_is_away_is_a_failure():
    sandbox = FusionSandbox("http://127.0.0.1:9", LIMITS, max_attempts=1)

    with pytest.raises(SandboxFailure, match=r"http://127\.0\.0\.1:9/run_code: .*attempt 1 of 1"):
        sandbox.run("print(1)", 1)
    sandbox.close()


def test_a_server_that_does_not_answer_is_not_waited_for(sandbox, server, monkeypatch):
    monkeypatch.setattr("megatron_stare.tools.fusion._GRACE_S", 0.1)
    server.script[:] = [1.5]

    with pytest.raises(SandboxFailure, match=r"ReadTimeout|timed out"):
        sandbox.run("print(1)", 0.1)


def test_one_that_is_closed_in_use_is_a_failure_to_whoever_waits(sandbox, server):
    server.script[:] = [0.3]
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(sandbox.run, "print(1)", 5)
        while not server.requests:
            time.sleep(0.01)
        sandbox.close()
        with pytest.raises(SandboxFailure):
            waiting.result(60)
    with pytest.raises(SandboxFailure, match="the sandbox is closed"):
        sandbox.run("print(1)", 5)


def test_the_tool_runs_code_there(server):
    server.script.clear()
    tool = PythonTool(
        ToolsConfig(sandbox="sandbox_fusion", sandbox_fusion={"url": server.url}, stateful=True)
    )
    tool.start()
    session = tool.session()
    texts = [session.call({"code": code}, 5).text for code in ("x = 2", "x * 3", "1/0")]
    tool.close()

    assert texts[:2] == ["", "6\n"]
    assert texts[2].endswith("ZeroDivisionError: division by zero\n")


def test_a_server_that_fails_at_the_start_stops_the_run():
    config = ToolsConfig(
        sandbox="sandbox_fusion",
        sandbox_fusion={"url": "http://127.0.0.1:9", "max_attempts": 1},
    )

    with pytest.raises(
        UserError, match=r"tools\.sandbox=sandbox_fusion: http://127\.0\.0\.1:9/run_code"
    ):
        PythonTool(config).start()
