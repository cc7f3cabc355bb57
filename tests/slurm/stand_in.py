"""Listens like an SGLang server that is up, and generates nothing; ends when its file is gone.

Takes the place of the Python of SGLang's environment, so that what a job does with servers, and
about lost ones, is tested where SGLang is not installed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Answer(BaseHTTPRequestHandler):
    """Health only."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health_generate" else 404)
        self.end_headers()


def main() -> None:
    """`stand_in.py FILE -m sglang.launch_server --host HOST --port PORT ...`."""
    alive, arguments = Path(sys.argv[1]), sys.argv[2:]
    if not alive.exists():
        sys.exit("a stand-in that does not come up")
    host, port = (arguments[arguments.index(name) + 1] for name in ("--host", "--port"))
    server = HTTPServer((host, int(port)), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while alive.exists():
        time.sleep(0.1)
    os._exit(1)


if __name__ == "__main__":
    main()
