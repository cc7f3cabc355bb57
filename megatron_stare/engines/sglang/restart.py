"""The command that brings a lost server back: an operator's program, run beside the trainer."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from megatron_stare.errors import UserError


class Restarts:
    """Runs `command`, with {url} filled in, once for each time that a server is lost.

    The run does not wait for it; its output goes to `restart_HOST_PORT.log` in `log_dir`.
    """

    def __init__(self, command: Sequence[str] | None, log_dir: Path) -> None:
        self._command = command
        self._log_dir = log_dir
        self._begun: set[str] = set()

    def begin(self, url: str) -> None:
        """Run it for a server, unless it was begun since `forget`.

        Raises:
            UserError: there is no such program.
        """
        if self._command is None or url in self._begun:
            return
        with self._log_of(url) as log:
            try:
                process = subprocess.Popen(
                    [part.replace("{url}", url) for part in self._command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # What it starts outlives this run.
                )
            except OSError as error:
                raise UserError(
                    f"rollout.servers.restart_command: cannot run {self._command[0]!r} ({error})"
                ) from None
        self._begun.add(url)
        threading.Thread(target=process.wait, daemon=True).start()  # Leaves no zombie.

    def _log_of(self, url: str) -> IO[bytes]:
        """Where the command's output goes: nowhere, where that cannot be written."""
        where = urlsplit(url).netloc.replace(":", "_")
        try:
            self._log_dir.mkdir(parents=True, exist_ok=True)
            return (self._log_dir / f"restart_{where}.log").open("ab")
        except OSError:
            return open(os.devnull, "ab")

    def forget(self, url: str) -> None:
        """A server is back; when it is lost again, that is another time."""
        self._begun.discard(url)
