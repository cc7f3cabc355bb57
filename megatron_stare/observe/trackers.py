"""Trackers of a run that are not its own files: Weights & Biases, and those of a user.

They are foreign code, of which nothing may cost the run: one that fails is left out from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from megatron_stare.config.run import LogConfig
from megatron_stare.errors import UserError
from megatron_stare.observe.history import FILE_NAME
from megatron_stare.system.imports import import_own


class Tracker(Protocol):
    """What a user's class is, of a run's folder, config and first step (docs/trackers.md)."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of a step, which may come in several parts."""
        ...

    def close(self) -> None:
        """There are no more."""
        ...


MakeTracker = Callable[[Path, dict[str, Any], int | None], Tracker]
"""(folder of the run, resolved config, step that it goes on with or None) -> tracker."""


def find_trackers(log: LogConfig) -> dict[str, MakeTracker]:
    """The user's classes by their paths.

    Raises:
        UserError: one cannot be imported.
    """
    found: dict[str, MakeTracker] = {}
    for path in log.trackers:
        try:
            found[path] = import_own(path)
        except ValueError as error:
            raise UserError(f"log.trackers: cannot import {path}: {error}") from None
    return found


class TrackerLogger:
    """A tracker, until it fails: then `report` is told, and the run goes on without.

    Args:
        name: for messages.
        state: what it takes to go on in the same place.
    """

    def __init__(
        self,
        name: str,
        tracker: Tracker,
        report: Callable[[str], None],
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._name = name
        self._tracker = tracker
        self._report = report
        self._state = dict(state or {})
        self._is_lost = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._do(lambda: self._tracker.log(step, dict(metrics)))

    def state_dict(self) -> dict[str, Any]:
        """What it was made with."""
        return self._state

    def close(self) -> None:
        """See `Tracker`."""
        self._do(self._tracker.close)

    def _do(self, action: Callable[[], None]) -> None:
        if self._is_lost:
            return
        try:
            action()
        except Exception as error:  # Of many unrelated classes; none may cost the run.
            self._is_lost = True
            self._report(f"{self._name} is lost ({error!r}); {FILE_NAME} goes on")


def open_trackers(
    classes: Mapping[str, MakeTracker],
    run_dir: Path,
    resolved_config: dict[str, Any],
    first_step: int | None,
    report: Callable[[str], None],
) -> Sequence[TrackerLogger]:
    """The user's, ready.

    Raises:
        UserError: one cannot be made.
    """
    trackers = []
    for path, make in classes.items():
        try:
            tracker = make(run_dir, resolved_config, first_step)
        except Exception as error:
            raise UserError(
                f"log.trackers: {path} cannot be made: {type(error).__name__}: {error}"
            ) from None
        trackers.append(TrackerLogger(path, tracker, report))
    return trackers
