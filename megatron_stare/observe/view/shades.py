"""How tokens are coloured: a hue, and how strong it is, the same in the terminal and on the page.

shades = Shades.of(name, all_tokens)      # a scale for a step
shades.shade(value)                       # ("#e07b3c", 0.4), to be laid over the background
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from megatron_stare.observe.view.reading import Tokens

ABOVE, BELOW = "#2f6fd0", "#e0702c"
STRONGEST = 0.7
_OTHERS = ("#8b62b3", "#3f9c74", "#c8474f", "#7c6a5b")
_FEW = 0.995
"""The share of a step's tokens whose values tell the scale: few outliers have all else pale."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """What tokens can be coloured by.

    centre  where there is no colour: above it is one hue, below it another. None is a set.
    """

    label: str
    unit: str
    centre: float | None


QUANTITIES = {
    "surprisal": Quantity("surprisal", "nats", 0.0),
    "entropy": Quantity("entropy", "nats", 0.0),
    "advantage": Quantity("advantage", "", 0.0),
    "weight": Quantity("weight", "", 1.0),
    "ratio": Quantity("ratio after the update", "", 1.0),
    "set": Quantity("set", "", None),
}


@dataclass(frozen=True, slots=True)
class Scale:
    """How far from its centre a quantity of a step gets; 0 where all tokens are at it."""

    quantity: Quantity
    reach: float

    def shade(self, value: float) -> tuple[str, float]:
        """Hue, and strength from 0 to `STRONGEST`."""
        assert self.quantity.centre is not None
        distance = value - self.quantity.centre
        if math.isnan(distance) or not self.reach:
            return ABOVE, 0.0
        strength = min(abs(distance) / self.reach, 1.0) * STRONGEST
        return (ABOVE if distance > 0 else BELOW), strength


def scales_of(tokens: Iterable[Tokens]) -> dict[str, Scale]:
    """Scales by quantity, of all tokens of a step."""
    numbers = [each.numbers for each in tokens]
    scales = {}
    for name, quantity in QUANTITIES.items():
        if quantity.centre is not None:
            parts = [np.abs(each[name] - quantity.centre) for each in numbers]
            values = np.concatenate(parts) if parts else np.empty(0)
            values = values[np.isfinite(values)]
            reach = float(np.quantile(values, _FEW, method="higher")) if len(values) else 0.0
            if len(values) and not reach:  # What few tokens have is all there is to see.
                reach = float(values.max())
            scales[name] = Scale(quantity, reach)
    return scales


def set_hues(names: Sequence[str]) -> dict[str, str]:
    """Of the sets of a step: those of a sign have its hue."""
    hues = {"L+": ABOVE, "L-": BELOW}
    others = [name for name in names if name not in hues]
    return hues | {name: _OTHERS[i % len(_OTHERS)] for i, name in enumerate(others)}


def blended(hue: str, strength: float, background: str) -> str:
    """A hue over a background, both `#rrggbb`."""
    pairs = zip(_channels(hue), _channels(background), strict=True)
    mixed = (round(strength * over + (1 - strength) * under) for over, under in pairs)
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _channels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
