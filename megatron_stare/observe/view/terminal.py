"""The viewer in a terminal, over ssh too: steps, groups and their samples side by side."""

from __future__ import annotations

import sys
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, HorizontalScroll, Vertical, VerticalScroll
from textual.widgets import Footer, OptionList, Static
from textual.widgets.option_list import Option

from megatron_stare.errors import UserError
from megatron_stare.observe.view.panes import SamplePane, StepSlider, numbers_of
from megatron_stare.observe.view.reading import MARKS, Mark, ViewedGroup, ViewedRun, is_shown
from megatron_stare.observe.view.shades import QUANTITIES, Scale, scales_of

_EVERY = ""
_NARROWEST = 38
"""Columns of a sample."""


class Viewer(App[None]):
    """A run's dumps."""

    CSS = """
    StepSlider { height: 1; margin: 0 1; }
    #state { height: auto; margin: 0 1; }
    #groups { width: 25; height: 1fr; border: round $panel; }
    #prompt { height: auto; max-height: 9; margin: 0 1; color: $text-muted; }
    #samples { height: 1fr; }
    SamplePane { height: 1fr; border: round $panel; padding: 0 1; }
    SamplePane:focus { border: round $accent; }
    .facts { height: auto; margin-bottom: 1; }
    #card { height: auto; min-height: 1; margin: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left_square_bracket", "step(-1)", "step before", key_display="["),
        Binding("right_square_bracket", "step(1)", "next step", key_display="]"),
        Binding("c", "colour", "colour"),
        *(
            Binding(str(place), f"toggle('{mark}')", mark)
            for place, mark in enumerate(MARKS, start=1)
        ),
        Binding("s", "source", "source"),
        Binding("q", "quit", "quit"),
    ]

    ENABLE_COMMAND_PALETTE = False

    def __init__(self, run: ViewedRun) -> None:
        super().__init__()
        self.title = run.name
        self._viewed = run
        self._place, self._colour, self._source = 0, "surprisal", _EVERY
        self._marks: set[Mark] = set()
        self._groups: list[ViewedGroup] = []
        self._scales: dict[str, Scale] = {}

    def compose(self) -> ComposeResult:
        """The slider, what is shown, groups beside samples, and the token under the cursor."""
        yield StepSlider(self._viewed.steps)
        yield Static(id="state")
        with Horizontal():
            yield OptionList(id="groups")
            with Vertical():
                yield VerticalScroll(Static(), id="prompt", can_focus=False)
                yield HorizontalScroll(id="samples", can_focus=False)
        yield Static(Text("Point at a token, or tab to a sample and use ← →.", "dim"), id="card")
        yield Footer()

    def on_mount(self) -> None:
        """Begin with the first step."""
        self._open_step()

    @property
    def _step(self) -> int:
        return self._viewed.steps[self._place]

    def _open_step(self) -> None:
        """Read a step; where it is malformed, say so and show nothing."""
        try:
            self._groups = self._viewed.groups(self._step)
            known = [self._viewed.tokens(self._step, group) for group in self._groups]
        except UserError as error:
            self._groups, known = [], []
            self.notify(str(error), severity="error", timeout=20)
        self._scales = scales_of([tokens for each in known for tokens in each.values()])
        self.query_one(StepSlider).show(self._place)
        self._list_groups()

    def _list_groups(self) -> None:
        """The groups that have samples as asked for, at the one that was looked at, if it is."""
        groups = self.query_one("#groups", OptionList)
        before = groups.highlighted or 0
        groups.clear_options()
        groups.add_options(
            Option(_name(group), id=str(group.number))
            for group in self._groups
            if self._source in (_EVERY, group.first.source)
            and any(is_shown(sample, self._marks) for sample in group.samples)
        )
        self._say_state()
        if groups.option_count:
            groups.highlighted = min(before, groups.option_count - 1)
        else:
            self.query_one("#prompt Static", Static).update("No sample is of that kind here.")
            self.query_one("#samples").remove_children()

    def _say_state(self) -> None:
        quantity = QUANTITIES[self._colour]
        line = Text().append("colour ", "dim").append(quantity.label, "bold")
        if quantity.centre is not None:
            line.append(f" {_span(self._scales[self._colour])}", "dim")
        line.append("   show ", "dim").append(", ".join(sorted(self._marks)) or "all", "bold")
        if self._sources:
            line.append("   source ", "dim").append(self._source or "every", "bold")
        self.query_one("#state", Static).update(line)

    @property
    def _sources(self) -> list[str]:
        return sorted({group.first.source for group in self._groups} - {_EVERY})

    @on(OptionList.OptionHighlighted)
    async def show_group(self, event: OptionList.OptionHighlighted) -> None:
        """Its prompt, and its samples side by side."""
        group = next(each for each in self._groups if str(each.number) == event.option.id)
        first = group.first
        about = [f"answer {first.answer}" if first.answer else "", first.source]
        about.append(f"dropped: {first.dropped or 'unknown'}" if not first.kept else "")
        text = Text(first.prompt).append("\n" + " · ".join(filter(None, about)), "dim")
        self.query_one("#prompt Static", Static).update(text)
        tokens = self._viewed.tokens(self._step, group)
        panes = [
            SamplePane(sample, tokens.get(sample.index), self._colour, self._scales)
            for sample in group.samples
            if is_shown(sample, self._marks)
        ]
        samples = self.query_one("#samples")
        for pane in panes:
            pane.styles.width = max(samples.size.width // len(panes), _NARROWEST)
        await samples.remove_children()
        await samples.mount_all(panes)

    @on(SamplePane.Chosen)
    def tell(self, event: SamplePane.Chosen) -> None:
        """The numbers of the token under the cursor."""
        self.query_one("#card", Static).update(numbers_of(event.tokens, event.place))

    @on(StepSlider.Moved)
    def slide(self, event: StepSlider.Moved) -> None:
        """A step was clicked."""
        self._place = event.place
        self._open_step()

    def action_step(self, by: int) -> None:
        """The next step, or the one before."""
        self._place = min(max(self._place + by, 0), len(self._viewed.steps) - 1)
        self._open_step()

    def action_colour(self) -> None:
        """Colour tokens by the next quantity."""
        names = [*QUANTITIES]
        self._colour = names[(names.index(self._colour) + 1) % len(names)]
        self._say_state()
        for pane in self.query(SamplePane):
            pane.recolour(self._colour)

    def action_toggle(self, mark: Mark) -> None:
        """Show samples of a kind, or all again."""
        toggle = self._marks.remove if mark in self._marks else self._marks.add
        toggle(mark)
        self._list_groups()

    def action_source(self) -> None:
        """The next source, and after the last one every source."""
        names = [_EVERY, *self._sources]
        place = names.index(self._source) if self._source in names else 0
        self._source = names[(place + 1) % len(names)]
        self._list_groups()


def _span(scale: Scale) -> str:
    """From no colour to the strongest."""
    quantity, reach = scale.quantity, scale.reach
    if quantity.unit:  # What is never negative.
        return f"0 to {reach:.3g} {quantity.unit}"
    return f"{quantity.centre:g} ± {reach:.3g}: blue above, orange below"


def _name(group: ViewedGroup) -> Text:
    ending, style = ("right", "") if group.first.kept else ("dropped", "dim")
    return Text(f"{group.number + 1:>4}  {group.num_right}/{len(group.samples)} {ending}", style)


def show(run: ViewedRun) -> None:
    """Look at a run until the user quits.

    Raises:
        UserError: there is no terminal.
    """
    if not sys.stdout.isatty():
        raise UserError("view: standard output is no terminal; expected one, or --html FILE")
    Viewer(run).run()
