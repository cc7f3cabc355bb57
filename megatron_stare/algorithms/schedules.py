"""How a setting moves over a run."""

from __future__ import annotations

import math
from typing import Literal

Shape = Literal["linear", "cosine"]
"""A straight line, or half a wave, which starts and ends slowly."""


def eased(gone: float, shape: Shape) -> float:
    """How much of the way is behind when `gone` of the steps are, both from 0 to 1."""
    return gone if shape == "linear" else (1 - math.cos(math.pi * gone)) / 2


def share_between(first: float, last: float, gone: float) -> float:
    """On a line; a sum's last bits are no part of a share."""
    return round((1 - gone) * first + gone * last, 12)
