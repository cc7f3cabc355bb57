"""What the viewer shows is what was dumped: read, coloured, and in a terminal."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from megatron_stare.cli import main
from megatron_stare.errors import UserError
from megatron_stare.observe.view.panes import SamplePane, StepSlider
from megatron_stare.observe.view.reading import read_view
from megatron_stare.observe.view.shades import ABOVE, BELOW, STRONGEST, blended, scales_of
from megatron_stare.observe.view.terminal import Viewer
from tests.unit.observe.dumps import EPISODE, RIGHT, write_dumped_run
from tests.unit.observe.synthetic import write_metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dumped_run(tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture(scope="module")
def run(folder):
    return read_view(folder)


def test_groups_are_whole_those_that_were_dropped_too(run):
    groups = run.groups(1)
    found = [(group.first.prompt, len(group.samples), group.num_right) for group in groups]
    assert found == [("2+2=", 2, 1), ("find it", 3, 1), ("3+3=", 2, 0)]
    assert [group.first.dropped for group in groups] == [None, None, "filter mixed"]
    marks = [[sorted(sample.marks) for sample in group.samples] for group in groups[:2]]
    assert marks == [[["right"], ["truncated", "wrong"]], [["right"], ["wrong"], ["failed"]]]


def test_tokens_are_those_of_each_judged_sample(run):
    groups = run.groups(1)
    of_first, of_second = (run.tokens(1, group) for group in groups[:2])
    assert {**of_first}.keys() == {0, 1}
    assert {**of_second}.keys() == {0, 1}
    first = of_first[0]
    assert "".join(first.texts) == RIGHT.samples[0].text + "<|endoftext|>"
    assert first.numbers["surprisal"] == pytest.approx(np.arange(len(first.texts)) / 10)
    assert first.sets[:4] == ["", "", "L+", ""]
    assert first.clips[:4] == ["", "", "clip_high", ""]
    assert np.isnan(of_second[0].numbers["advantage"][4:11]).all()


def test_what_was_not_dumped_has_no_tokens(run):
    assert run.tokens(1, run.groups(1)[2]) == {}
    assert run.tokens(4, run.groups(4)[0]) == {}
    assert run.num_tokens(4) == 0 < run.num_tokens(1)


def test_a_scale_is_that_of_a_step(run):
    tokens = [*run.tokens(1, run.groups(1)[0]).values()]
    scales = scales_of(tokens)
    assert scales["weight"].shade(1.0)[1] == 0
    assert scales["weight"].shade(1.1) == (ABOVE, pytest.approx(STRONGEST))
    assert scales["weight"].shade(0.95) == (BELOW, pytest.approx(STRONGEST / 2, rel=1e-5))
    assert scales["surprisal"].shade(float("nan"))[1] == 0
    assert scales_of([])["entropy"].shade(3.0)[1] == 0
    assert blended("#ff0000", 0.5, "#000000") == "#800000"


def test_bad_input_is_refused(tmp_path):
    run_dir = write_metrics(tmp_path / "run", {1: {"reward/mean": 0.5}})
    with pytest.raises(UserError, match=r"has no dumped samples, expected .*dump_samples=true"):
        read_view(run_dir)
    write_dumped_run(tmp_path / "torn")
    (tmp_path / "torn/samples/step_000001.jsonl").write_text('{"group": 0}\n')
    (tmp_path / "torn/samples/step_000004.parquet").write_bytes(b"PAR1")
    run = read_view(tmp_path / "torn")
    with pytest.raises(UserError, match=r"step_000001.jsonl:1: not a dumped sample; index: "):
        run.groups(1)
    with pytest.raises(UserError, match=r"step_000004.parquet: not a dump of tokens"):
        run.tokens(4, run.groups(4)[0])


def test_without_a_terminal_a_page_is_offered(folder, capsys):
    assert main(["view", str(folder)]) == 2
    assert "standard output is no terminal; expected one, or --html" in capsys.readouterr().err


def test_without_textual_it_is_said_what_to_install(folder, capsys, monkeypatch):
    ours = "megatron_stare.observe.view."
    for name in [*sys.modules]:
        if name.partition(".")[0] == "textual" or name in (f"{ours}terminal", f"{ours}panes"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "textual", None)
    assert main(["view", str(folder)]) == 2
    assert "textual: pip install megatron-stare[view], or --html FILE" in capsys.readouterr().err


def play(run, script: Callable[[Pilot], Awaitable[None]], size=(130, 40)) -> None:
    async def played() -> None:
        async with Viewer(run).run_test(size=size) as pilot:
            await pilot.pause()
            await script(pilot)

    asyncio.run(played())


def texts_of(pilot: Pilot) -> list[str]:
    panes = pilot.app.query(SamplePane)
    return ["\n".join(str(part.render()) for part in pane.query(Static)) for pane in panes]


def card_of(pilot: Pilot) -> str:
    return str(pilot.app.query_one("#card", Static).render())


def test_samples_of_a_group_are_side_by_side(run):
    async def script(pilot: Pilot) -> None:
        first, second = texts_of(pilot)
        assert "reward 1.5 = verdict 1 + format 0.5 · advantage 1 · ended by stop" in first
        assert "so <i>4</i> ✓<|endoftext|>" in first
        assert "wrong" in second
        assert "truncated" in second
        panes = [*pilot.app.query(SamplePane)]
        assert panes[0].region.right <= panes[1].region.x

    play(run, script)


def test_steps_go_on_and_back_and_can_be_clicked(run):
    async def script(pilot: Pilot) -> None:
        def step() -> str:
            return str(pilot.app.query_one(StepSlider).render())

        assert "step 1" in step()
        await pilot.press("right_square_bracket", "right_square_bracket")
        assert "step 4" in step()
        await pilot.press("left_square_bracket")
        assert "step 1" in step()
        await pilot.click(StepSlider, offset=(100, 0))
        await pilot.pause()
        assert "step 4" in step()
        assert "so <i>4</i> ✓" in texts_of(pilot)[0]  # Without tokens, the text.

    play(run, script)


def test_filters_leave_samples_and_groups_out(run):
    async def script(pilot: Pilot) -> None:
        groups = pilot.app.query_one("#groups", OptionList)

        async def shown(*keys: str) -> tuple[int, int]:
            await pilot.press(*keys)
            await pilot.pause()
            return groups.option_count, len(pilot.app.query(SamplePane))

        assert await shown() == (3, 2)
        assert await shown("1") == (2, 1)
        assert await shown("1", "4") == (1, 1)
        assert await shown("3") == (0, 0)
        assert await shown("4", "3", "s") == (1, 3)  # Every game.
        assert await shown("s") == (2, 2)
        assert await shown("s") == (3, 2)

    play(run, script)


def test_the_token_under_the_cursor_has_its_numbers(run):
    async def script(pilot: Pilot) -> None:
        pane = pilot.app.query(SamplePane).first()
        pane.focus()
        await pilot.press("right", "right", "right")
        await pilot.pause()
        assert '" "  surprisal 0.2  entropy 1  advantage 1  weight 1.1  ratio 1' in card_of(pilot)
        assert "set L+  clip clip_high  counted yes  place 3 of " in card_of(pilot)
        body = pane.query(Static).last()
        await pilot.hover(body, offset=(1, 0))
        await pilot.pause()
        assert '"o"  surprisal 0.1' in card_of(pilot)

    play(run, script)


def test_colours_are_of_what_is_asked_for(run):
    async def script(pilot: Pilot) -> None:
        def state() -> str:
            return str(pilot.app.query_one("#state", Static).render())

        assert "colour surprisal 0 to " in state()
        seen = []
        for _ in range(5):
            await pilot.press("c")
            seen.append(state().split()[1])
        assert seen == ["entropy", "advantage", "weight", "ratio", "set"]

    play(run, script)


def test_episodes_are_shown_turn_by_turn(run):
    async def script(pilot: Pilot) -> None:
        pilot.app.query_one("#groups", OptionList).highlighted = 1
        await pilot.pause()
        await pilot.pause()
        played, _, lost = texts_of(pilot)
        assert "▸ call\nlook\n▸ observation · 0 s\n[a box]\n▸ answer\nopen" in played
        assert "failure: the verifier died" in lost
        assert len(EPISODE.turns) == 3

    play(run, script, size=(80, 24))
