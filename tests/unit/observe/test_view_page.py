"""The viewer's page in a browser: it opens from a disk, fetches nothing, and does what it says."""

from __future__ import annotations

import re
import shutil

import pytest

from megatron_stare.cli import main
from megatron_stare.observe.view import page as page_module
from megatron_stare.observe.view.page import steps_with_room
from megatron_stare.observe.view.reading import read_view
from tests.unit.observe.dumps import write_dumped_run

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dumped_run(tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, folder, tmp_path):
    """The page at a width; whatever it asks for beside itself, or complains of, fails the test."""
    assert main(["view", str(folder), "--html", str(tmp_path / "page.html")]) == 0
    said: list[str] = []

    def open_at(width: int, place: str = ""):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: said.append(request.url))
        page.goto(f"{(tmp_path / 'page.html').as_uri()}{place}")
        page.wait_for_selector("article")
        return page

    yield open_at
    assert [text for text in said if not text.startswith("file:")] == []


def articles(page) -> list[str]:
    return page.locator("article").all_inner_texts()


@pytest.mark.parametrize("width", [1400, 480])
def test_nothing_is_wider_than_the_screen(open_page, width):
    page = open_page(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [article.bounding_box() for article in page.locator("article").all()]
    assert (boxes[0]["y"] == boxes[1]["y"]) == (width == 1400)  # Side by side, or below.


def test_texts_are_texts(open_page):
    page = open_page(1400)
    assert "so <i>4</i> ✓<|endoftext|>" in articles(page)[0]
    assert "answer <b>4</b>" in page.locator("#group").inner_text()
    assert "reward 1.5 = verdict 1 + format 0.5 · advantage 1" in articles(page)[0]


def test_the_token_under_the_cursor_has_its_numbers(open_page):
    page = open_page(1400, "#colour=weight")
    token = page.locator("article >> nth=0").locator(".token >> nth=2")
    token.hover()
    card = " ".join(page.locator("#card").inner_text().split())
    assert re.search(r"surprisal 0\.2 entropy 1 advantage 1 weight 1\.1 ratio .* 1 ", card)
    assert "set L+ clip clip_high counted yes" in card
    colours = [
        page.locator(".token").nth(i).evaluate("span => span.style.background") for i in (1, 2)
    ]
    assert colours[0] == ""
    assert colours[1].startswith("rgba(47, 111, 208")


def test_steps_groups_and_filters(open_page):
    page = open_page(1400)
    assert page.locator("#groups button").all_inner_texts() == [
        "1 · 1/2 right",
        "2 · 1/3 right",
        "3 · 0/2 right",
    ]
    page.locator("#groups button >> nth=2").click()
    assert "dropped: filter mixed" in page.locator("#group").inner_text()
    page.get_by_role("button", name="failed").click()
    assert page.locator("#groups button").count() == 1
    assert "the verifier died" in articles(page)[0]
    page.get_by_role("button", name="failed").click()
    page.select_option("#source", "games")
    assert page.locator("#groups button").count() == 1
    page.select_option("#source", "")
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.locator("#next").click()
    page.wait_for_function("document.getElementById('step').textContent === 'step 4'")
    assert page.locator(".token").count() == 0
    assert "#step=4&" in page.url
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.getElementById('step').textContent === 'step 1'")


def test_episodes_are_shown_turn_by_turn(open_page):
    page = open_page(1400, "#group=2")
    lines = articles(page)[0].split("\n")
    assert [line for line in lines if line][-6:] == [
        "call",
        "look",
        "observation · 0 s",
        "[a box]",
        "answer",
        "open<|endoftext|>",
    ]


def test_a_place_can_be_sent_to_others(open_page):
    page = open_page(1400, "#step=4&group=2&colour=set")
    assert page.locator("#step").inner_text() == "step 4"
    assert page.locator("#prompt, .prompt").inner_text() == "find it"


def test_steps_are_spread_evenly_where_there_is_no_room_for_all(folder, monkeypatch):
    run = read_view(folder)
    assert steps_with_room(run) == [1, 4]
    many = run.__class__("many", dict.fromkeys(range(1, 101), run.dumps[1]))
    monkeypatch.setattr(page_module, "MOST_TOKENS", 10 * many.num_tokens(1))
    assert steps_with_room(many) == [1, 12, 23, 34, 45, 56, 67, 78, 89, 100]


def test_a_step_that_was_not_dumped_is_refused(folder, tmp_path, capsys):
    arguments = ["view", str(folder), "--html", str(tmp_path / "a.html"), "--steps", "2"]
    assert main(arguments) == 2
    assert "--steps 2: is not dumped, expected some of 1 to 4 (2 steps)" in capsys.readouterr().err
