import json
import re
from html.parser import HTMLParser

import pytest

from megatron_stare.errors import UserError
from megatron_stare.observe.plots import FIGURES, comparison_figure
from megatron_stare.observe.report import MAX_CHARACTERS, config_differences, write_report
from megatron_stare.observe.run_folders import read_runs
from megatron_stare.observe.summary import summarise
from tests.disks import full_disk
from tests.unit.observe.synthetic import write_metrics, write_run, write_samples

PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """Every tag of a page with its attributes; fails on tags that do not nest."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.open = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    seeds = [write_run(root / f"grpo-seed{seed}", seed=seed) for seed in (1, 2)]
    return [*seeds, write_run(root / "stare", stare=True, seed=3)]


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    metrics = {"pairs/accuracy": 0.9, "pairs/margin": 0.3}
    pairs = write_metrics(folder / "pairs", {1: metrics, 2: metrics}, "prefer: {steps: 2}")
    return write_report([*runs, pairs], folder / "new")


def test_every_figure_is_a_png_and_is_in_the_page(report):
    stems = {path.stem for path in report.parent.glob("*.png")}
    assert stems == {*FIGURES, "pass_at_k", "times", "entropy_law"}
    assert all(path.read_bytes().startswith(PNG) for path in report.parent.glob("*.png"))
    assert sum(tag == "img" for tag, _ in Page(report.read_text()).tags) == len(stems)


def test_the_page_needs_nothing_beside_it(report):
    page = Page(report.read_text())
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe")
        assert "href" not in attributes
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
    assert "url(" not in report.read_text()


def test_the_page_shows_summary_config_and_samples(report):
    text = Page(report.read_text()).text
    for words in (
        "grpo (2 seeds)",
        "Held-out pass@16, end",
        "Config differences",
        "stare.enabled",
        "What is 3 + 4?",
        "step 60",
        "reward 1 · right · stop",
    ):
        assert words in text, words


def test_config_differences_are_between_labels_and_inside_them(runs, tmp_path):
    other = write_run(tmp_path / "grpo-seed9", seed=9, steps=2)
    rows = {row[0]: row[1:] for row in config_differences(read_runs([*runs, other]))}
    assert rows == {"stare.enabled": ["False", "True"], "train.steps": ["60 | 2", "60"]}


def test_what_runs_say_cannot_become_html(tmp_path):
    attack = "<script>alert('x')</script><img src=https://example.com onerror=alert(1)>"
    config = json.dumps({"note": attack})
    run_dir = write_metrics(tmp_path / "a<b>&$x^2$", {1: {"reward/mean": 0.5}}, config)
    write_samples(run_dir, [1, 3], response=attack + " $title")
    other = write_metrics(tmp_path / "plain", {1: {"reward/mean": 0.5}})
    page = Page(write_report([run_dir, other], tmp_path / "report").read_text())
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert page.text.count(attack) >= 3


def test_a_very_long_response_is_shown_by_its_ends(tmp_path):
    run_dir = write_metrics(tmp_path / "a", {1: {"reward/mean": 0.5}})
    write_samples(run_dir, [1], response="begin" + "x" * 100_000 + "the end")
    text = write_report([run_dir], tmp_path / "report").read_text()
    assert "begin" in text
    assert "the end" in text
    assert "x" * MAX_CHARACTERS not in text
    assert re.search(r"\[… 94,012 characters …\]", text)


def test_an_episode_is_shown_turn_by_turn(tmp_path):
    run_dir = write_metrics(tmp_path / "a", {1: {"reward/mean": 0.5}})
    turns = [
        {"kind": "model", "text": "I call <b>", "taken_as": "call", "num_calls": 2},
        {"kind": "observation", "text": "42 and no", "num_ok": 1, "seconds": 0.25},
        {"kind": "model", "text": "it is 42", "taken_as": "answer"},
        {"kind": "observation", "text": "", "failure": "a server is away"},
    ]
    write_samples(run_dir, [1], turns=turns)
    page = Page(write_report([run_dir], tmp_path / "report").read_text())
    shown = (
        *("call · 2 made", "I call <b>", "observation · 1 went well · 0.25 s", "42 and no"),
        *("answer", "it is 42", "observation · failed: a server is away"),
    )
    places = [page.text.find(text) for text in shown]
    assert -1 not in places
    assert places == sorted(places)
    classes = [attributes.get("class") for tag, attributes in page.tags if tag == "pre"]
    assert classes[:4] == ["prompt", "model", "observation", "model"]


def test_a_supervised_run_is_reported_by_what_it_has(tmp_path):
    metrics = {"sft/loss": 2.0, "optim/lr": 1e-3, "time/update_s": 0.1, "time/step_s": 0.1}
    run_dir = write_metrics(tmp_path / "sft", {1: metrics}, "sft: {steps: 1}")
    page = write_report([run_dir], tmp_path / "report")
    assert {path.stem for path in page.parent.glob("*.png")} == {"optimizer", "times"}
    text = Page(page.read_text()).text
    assert "Samples" not in text
    assert "Config differences" not in text


def test_sources_have_a_figure_and_rows_of_their_own(tmp_path):
    steps = {
        step: {
            "source/sums/drawn": 3.0,
            "source/words/drawn": 1.0,
            "source/sums/accuracy": 0.5,
            "eval/source/words/avg_at_k": 0.25 * step,
        }
        for step in (1, 2, 3)
    }
    run = write_metrics(tmp_path / "mixed", steps)
    page = write_report([run], tmp_path / "report").read_text()
    assert (tmp_path / "report/sources.png").read_bytes().startswith(b"\x89PNG")
    assert "<dt>eval/source/words/avg_at_k</dt>" in page
    _, rows = summarise(read_runs([run]))
    assert ["sums: prompts drawn", "9"] in rows
    assert ["sums: training accuracy, last 10%", "50.0%"] in rows
    assert ["words: held-out accuracy, end", "75.0%"] in rows
    assert not [title for title, _ in rows if title.startswith("sums: held-out")]


def test_a_run_of_one_step_and_more_labels_than_colours(tmp_path):
    runs = [write_run(tmp_path / f"run{n}", steps=1, stare=n % 2 == 0) for n in range(9)]
    comparison_figure(runs, tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").read_bytes().startswith(PNG)


def test_the_comparison_figure_is_one_png_in_a_folder_it_makes(runs, tmp_path):
    comparison_figure(runs, tmp_path / "docs" / "comparison.png")
    assert (tmp_path / "docs" / "comparison.png").read_bytes().startswith(PNG)


def test_a_figure_that_does_not_fit_is_named_and_the_one_before_stays(runs, tmp_path):
    page = write_report(runs, tmp_path / "report")
    before = {path: path.read_bytes() for path in page.parent.iterdir()}
    said = r"report\.html: cannot be written \(\w+\.png: File too large\)"
    with full_disk(1000), pytest.raises(UserError, match=said):
        write_report(runs, tmp_path / "report")
    assert {path: path.read_bytes() for path in page.parent.iterdir()} == before


def test_a_folder_that_is_no_run_stops_before_anything_is_written(runs, tmp_path):
    with pytest.raises(UserError, match=r"nowhere/metrics.jsonl: cannot read"):
        write_report([*runs, tmp_path / "nowhere"], tmp_path / "report")
    assert not (tmp_path / "report").exists()
