"""What terms have in common whose ratio has bounds."""

from __future__ import annotations

from megatron_stare.algorithms.hooks import Term


class Clipped(Term[None]):
    """A term with a lower and an upper bound of its ratio."""

    shares = ("loss/clip_low_share", "loss/clip_high_share")

    low: float
    """The ratio is clipped below at 1 - low."""
    high: float
    """The ratio is clipped above at 1 + high."""

    @property
    def clip_range(self) -> tuple[float, float]:
        """Links may move it, token by token."""
        return self.low, self.high
