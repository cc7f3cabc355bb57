"""The parts of the viewer in a terminal: a slider over steps, and a pane for each sample."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.events import Click, MouseMove, Resize
from textual.message import Message
from textual.widgets import Static

from megatron_stare.observe.run_folders import facts_of_turn
from megatron_stare.observe.view.reading import Tokens, ViewedSample, facts_of
from megatron_stare.observe.view.shades import STRONGEST, Scale, blended, set_hues
from megatron_stare.turns import Turn

FIRST_SHOWN = 2000
"""Of a long response, so many tokens, and more when asked."""
_COLOURS = {"right": "green", "wrong": "red", "failed": "magenta", "truncated": "yellow"}


class StepSlider(Static):
    """Steps on a line, which may be clicked."""

    class Moved(Message):
        """A place among the steps was clicked."""

        def __init__(self, place: int) -> None:
            super().__init__()
            self.place = place

    def __init__(self, steps: list[int]) -> None:
        super().__init__()
        self._steps, self._place = steps, 0

    def show(self, place: int) -> None:
        """Stand at a place."""
        self._place = place
        first, last = self._steps[0], self._steps[-1]
        done = 0 if len(self._steps) == 1 else round(place / (len(self._steps) - 1) * self._room)
        line = Text().append(f"{first:>6} ", "dim")
        line.append("━" * done, "bold blue").append("●", "bold blue")
        line.append("─" * (self._room - done), "dim").append(f" {last:<6}", "dim")
        self.update(line.append(f" step {self._steps[place]}", "bold"))

    @property
    def _room(self) -> int:
        return max(self.size.width - 30, 4)

    def on_resize(self, _: Resize) -> None:
        """Draw it as long as there is room."""
        self.show(self._place)

    def on_click(self, event: Click) -> None:
        """Go to the step that is nearest."""
        share = min(max((event.x - 7) / self._room, 0.0), 1.0)
        self.post_message(self.Moved(round(share * (len(self._steps) - 1))))


class SamplePane(VerticalScroll, can_focus=True):
    """A sample: its facts, and its response token by token."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "move(-1)", "token", show=False),
        Binding("right", "move(1)", "token"),
        Binding("m", "more", "more tokens"),
    ]

    class Chosen(Message):
        """A token is under the cursor."""

        def __init__(self, tokens: Tokens, place: int) -> None:
            super().__init__()
            self.tokens, self.place = tokens, place

    def __init__(
        self, sample: ViewedSample, tokens: Tokens | None, colour: str, scales: Mapping[str, Scale]
    ) -> None:
        super().__init__()
        self._sample, self._tokens, self._colour, self._scales = sample, tokens, colour, scales
        self._place, self._count = -1, FIRST_SHOWN
        self._body = Static()

    def compose(self) -> ComposeResult:
        """Facts, then the response."""
        facts = Text().append(f"sample {self._sample.index + 1} ", "bold")
        for mark in sorted(self._sample.marks):
            facts.append(f" {mark}", f"bold {_COLOURS[mark]}")
        length = None if self._tokens is None else len(self._tokens.texts)
        facts.append("\n" + " · ".join(facts_of(self._sample, length)), "dim")
        yield Static(facts, classes="facts")
        yield self._body

    def on_mount(self) -> None:
        """Draw, now that the background is known."""
        self._draw()

    def recolour(self, colour: str) -> None:
        """Colour tokens by another quantity."""
        self._colour = colour
        self._draw()

    def on_mouse_move(self, event: MouseMove) -> None:
        """The token under the mouse."""
        if "token" in event.style.meta:
            self._choose(event.style.meta["token"])

    def action_move(self, by: int) -> None:
        """The next token, or the one before."""
        self._choose(self._place + by)

    def action_more(self) -> None:
        """Show more of a long response."""
        self._count *= 4
        self._draw()

    def _choose(self, place: int) -> None:
        if self._tokens is None or place == self._place:
            return
        self._place = min(max(place, 0), min(self._count, len(self._tokens.texts)) - 1)
        self._draw()
        self.post_message(self.Chosen(self._tokens, self._place))

    def _draw(self) -> None:
        self._body.update(self._plain() if self._tokens is None else self._coloured(self._tokens))

    def _plain(self) -> Text:
        if not self._sample.turns:
            return Text(self._sample.response)
        text = Text()
        for turn in self._sample.turns:
            _open_turn(text, turn)
            text.append(turn.text)
        return text

    def _coloured(self, tokens: Tokens) -> Text:
        text, background = Text(), self.background_colors[1].hex6
        turns = {turn.start: turn for turn in self._sample.turns}
        is_own = True
        for place, piece in enumerate(tokens.texts[: self._count]):
            if turn := turns.get(place):
                is_own = turn.kind == "model"
                _open_turn(text, turn)
            hue, strength = self._shade(tokens, place)
            text.append(
                piece,
                Style(
                    bgcolor=blended(hue, strength, background) if strength else None,
                    dim=not is_own,
                    underline=bool(tokens.clips[place]),
                    reverse=place == self._place,
                    meta={"token": place},
                ),
            )
        if (rest := len(tokens.texts) - self._count) > 0:
            text.append(f"\n… {rest:,} tokens more (m)", "dim")
        return text

    def _shade(self, tokens: Tokens, place: int) -> tuple[str, float]:
        if self._colour != "set":
            return self._scales[self._colour].shade(float(tokens.numbers[self._colour][place]))
        name = tokens.sets[place].partition(",")[0]
        return (set_hues([name])[name], STRONGEST) if name else ("#000000", 0.0)


def _open_turn(text: Text, turn: Turn) -> None:
    line = "\n" if text else ""
    text.append(f"{line}▸ {facts_of_turn(asdict(turn))}\n", "italic dim")


def numbers_of(tokens: Tokens, place: int) -> Text:
    """All that is known of a token, in a line."""
    engine = -float(tokens.numbers["rollout_logprob"][place])
    told = {
        **{
            name: _shown(float(tokens.numbers[name][place]))
            for name in ("surprisal", "entropy", "advantage", "weight", "ratio")
        },
        "engine's": _shown(engine),
        "set": tokens.sets[place] or "none",
        "clip": tokens.clips[place] or "none",
        "counted": "yes" if tokens.counted[place] else "no",
        "place": f"{place + 1} of {len(tokens.texts)}",
    }
    line = Text().append(json.dumps(tokens.texts[place], ensure_ascii=False), "reverse")
    for name, value in told.items():
        line.append(f"  {name} ", "dim").append(value, "bold")
    return line


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"
