"""An engine that stands before another: what all of them hand on to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from megatron_stare.engines.engine import Engine


class EngineAround[E: Engine]:
    """All of an `Engine` but `generate`, of the engine behind it."""

    def __init__(self, engine: E) -> None:
        self._engine = engine
        self._is_interrupted = False

    @property
    def weight_version(self) -> int:
        """See `Engine`."""
        return self._engine.weight_version

    def interrupt(self) -> None:
        """See `Engine`."""
        self._is_interrupted = True
        self._engine.interrupt()

    def update_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> None:
        """See `Engine`."""
        self._engine.update_weights(tensors, version)

    def state_dict(self) -> dict[str, Any]:
        """See `Engine`."""
        return self._engine.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Engine`."""
        self._engine.load_state_dict(state)

    def close(self) -> None:
        """See `Engine`."""
        self._engine.close()
