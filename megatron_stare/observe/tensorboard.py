"""TensorBoard's events, written by the run itself.

Its own writer has a thread, which dies of a full disk with a traceback and half an event behind it.
"""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from megatron_stare.system.appended import AppendedFile


class TensorBoardLogger:
    """Scalars and the resolved config, under `run_dir/tensorboard`.

    Args:
        first_step: that is to come; events of it and of later ones, in files before, do not count.
        report: is told where events cannot be written.
    """

    def __init__(
        self,
        run_dir: Path,
        resolved_config: dict[str, Any],
        first_step: int | None,
        report: Callable[[str], None],
    ) -> None:
        from torch.utils.tensorboard import summary, writer

        self._protocol: Any = writer
        self._summaries = summary
        folder = run_dir / "tensorboard"
        with suppress(OSError):  # The file in it says so.
            folder.mkdir(parents=True, exist_ok=True)
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        place = f"{socket.gethostname()}.{os.getpid()}.{nanoseconds:09d}"
        self._file = AppendedFile(folder / f"events.out.tfevents.{seconds:010d}.{place}", report)
        self._add(file_version="brain.Event:2")
        if first_step is not None:
            log = self._protocol.SessionLog
            self._add(step=first_step, session_log=log(status=log.START))
        text = yaml.safe_dump(resolved_config, sort_keys=False)
        lines = "\n".join(f"    {line}" for line in text.splitlines())
        self._add(summary=summary.text("config", lines))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One scalar per metric."""
        for name, value in metrics.items():
            self._add(step=step, summary=self._summaries.scalar(name, value))

    def state_dict(self) -> dict[str, Any]:
        """Nothing: events carry their step."""
        return {}

    def close(self) -> None:
        """Write what could not be written so far, if it can be."""
        self._file.close()

    def _add(self, **fields: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        event = self._protocol.Event(wall_time=time.time(), **fields)
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        self._file.append(record.getvalue())
