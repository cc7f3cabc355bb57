"""`report` reads damaged run folders, or says in one line which file is damaged."""

from __future__ import annotations

import io
import json
import math
import os
import random
import shutil
import warnings

import pytest
from rich.console import Console

from megatron_stare.errors import UserError
from megatron_stare.observe.history import read_metrics
from megatron_stare.observe.report import html_page, write_report
from megatron_stare.observe.run_folders import RunFolder, read_runs
from megatron_stare.observe.summary import print_summary
from tests.unit.observe.synthetic import write_metrics, write_run

SAMPLES = "samples/step_000001.jsonl"
NUMBERS = {
    "null": "null",
    "nan": "NaN",
    "infinite": "-Infinity",
    "huge": "1e400",
    "beyond float32": "1e300",
    "a huge integer": "1" + 400 * "0",
}
NO_NUMBERS = {"text": '"high"', "bool": "true", "list": "[1, 2]", "object": '{"a": 1}'}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("good") / "run", stare=True, steps=12)


@pytest.fixture
def run(good, tmp_path):
    return shutil.copytree(good, tmp_path / "run")


def report(run) -> str | None:
    """What it says of a folder that it cannot read; None where it can.

    Without the figures, which take a second: they are drawn of what was read.
    """
    try:
        print_summary([run], Console(file=io.StringIO(), width=200))
        page = html_page(read_runs([run]), [])
    except UserError as error:
        said = str(error)
        return said if str(run) in said else f"names no file: {said}"
    (run / "report.html").write_text(page, encoding="utf-8")
    return None


def put(run, value: str, metric: str = "entropy/mean") -> None:
    """A line of metrics with this for a value."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": 13, "{metric}": {value}}}\n')


@pytest.mark.parametrize("value", NUMBERS.values(), ids=NUMBERS)
def test_a_number_that_is_none_is_drawn_as_none(run, value):
    put(run, value)
    assert math.isnan(read_metrics(run)["entropy/mean"].values[-1])
    assert report(run) is None


@pytest.mark.parametrize("value", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_what_is_no_number_is_named_with_file_line_and_metric(run, value):
    put(run, value)
    num_lines = len((run / "metrics.jsonl").read_text().splitlines())
    with pytest.raises(UserError, match=rf"metrics.jsonl:{num_lines}: 'entropy/mean': expected"):
        read_metrics(run)
    assert report(run) is not None


@pytest.mark.parametrize(
    "step", ["true", "-1", "1.5", '"3"', "null", "1" + 30 * "0"], ids=lambda step: step[:5]
)
def test_what_is_no_step_is_named(run, step):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": {step}, "reward/mean": 1}}\n')
    assert "expected a JSON object with an integer 'step'" in (report(run) or "")


@pytest.mark.parametrize("name", ["x", "", "0", "-1", "1.5", "٣", "8_", "9" * 5000])
def test_a_name_like_that_of_pass_at_k_is_not_drawn(run, name):
    put(run, "0.5", f"eval/pass_at_{name}")
    assert report(run) is None


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"[" * 100_000 + b"\n", b"\x00\n", b"{}\n"])
@pytest.mark.parametrize("file", ["metrics.jsonl", SAMPLES, "config.yaml"])
def test_bytes_that_are_none_of_the_file_are_named(run, file, content):
    path = run / file
    path.write_bytes(content + path.read_bytes())
    said = report(run)
    assert said is not None or (file, content) == ("config.yaml", b"{}\n")
    assert said is None or file in said


@pytest.mark.parametrize("file", ["metrics.jsonl", SAMPLES, "config.yaml"])
def test_a_folder_in_the_place_of_a_file_is_named_or_no_file(run, file):
    (run / file).unlink()
    (run / file).mkdir()
    said = report(run)
    assert (said is None) == (file == SAMPLES)
    assert said is None or file in said


@pytest.mark.parametrize("file", ["metrics.jsonl", "config.yaml"])
def test_a_pipe_in_the_place_of_a_file_is_named(run, file):
    (run / file).unlink()
    os.mkfifo(run / file)
    assert f"{file}: cannot read" in (report(run) or "")


def test_a_link_to_itself_in_the_place_of_a_run_is_named(tmp_path):
    (tmp_path / "run").symlink_to("run")
    assert "run/metrics.jsonl: cannot read" in (report(tmp_path / "run") or "")


@pytest.mark.parametrize(
    "config",
    [
        "{}",
        "stare: on",
        "{stare: null, train: null}",
        "train: {steps: many}",
        "train: 3",
        "when: 2026-01-01",
    ],
)
def test_a_config_without_what_the_report_looks_for_is_drawn_without(run, config):
    (run / "config.yaml").write_text(config)
    assert report(run) is None


NO_CONFIGS = ("a: &a {b: *a}", "[" * 3000, "a: [", "text", "!!int x", "- 1", "1: {2: 3}")


@pytest.mark.parametrize("config", [*NO_CONFIGS, r'text: "\ud800"'], ids=lambda text: text[:9])
def test_what_is_no_config_is_named(run, config):
    (run / "config.yaml").write_text(config)
    assert "config.yaml" in (report(run) or "")


@pytest.mark.parametrize("field", ["reward", "correct"])
@pytest.mark.parametrize("value", [*NUMBERS.values(), *NO_NUMBERS.values()])
def test_a_sample_without_a_verdict_is_shown(run, field, value):
    (run / SAMPLES).write_text(sample_line(field, value) + "\n")
    assert report(run) is None
    page = (run / "report.html").read_text()
    assert ("reward –" if field == "reward" else "not judged") in page


@pytest.mark.parametrize("field", ["prompt", "response", "finish_reason"])
@pytest.mark.parametrize("value", ["null", "3", "[]", "{}"])
def test_a_sample_without_a_text_is_named(run, field, value):
    (run / SAMPLES).write_text(sample_line(field, value) + "\n")
    assert f"step_000001.jsonl:1: {field}: expected a text" in (report(run) or "")


def test_half_a_surrogate_pair_in_a_text_is_shown_as_a_question_mark(run):
    (run / SAMPLES).write_text(sample_line("response", r'"so \ud800 it is"') + "\n")
    assert report(run) is None
    assert "so ? it is" in (run / "report.html").read_text()


def sample_line(field: str, value: str) -> str:
    sample = {"prompt": "1+1=", "response": "2", "finish_reason": "stop", "reward": 1, "correct": 1}
    fields = {name: json.dumps(found) for name, found in sample.items()} | {field: value}
    return "{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}"


@pytest.mark.parametrize(
    "name", ["step_x.jsonl", "step_1.jsonl", "step_٣٣٣٣٣٣.jsonl", "step_000001.jsonl.unfinished"]
)
def test_a_stray_file_among_the_samples_is_none(run, name):
    (run / "samples" / name).write_text("nothing")
    assert RunFolder(run, {}, {}).sample_steps() == [1, 12]
    assert report(run) is None


@pytest.mark.slow
def test_values_that_are_unknown_negative_or_as_large_as_can_be_are_drawn(tmp_path):
    """Each alone in its figure: nothing but NaN, zeros on a log scale, the ends of float32."""
    unknown = {"entropy/mean": math.nan, "eval/pass_at_2": math.nan, "time/step_s": math.nan}
    large = {"stare/w": 3.4e38, "stare/m": -3.4e38, "loss/total": 3.4e38, "reward/mean": math.inf}
    others = {"optim/grad_norm": 0.0, "optim/lr": -1.0, "eval/pass_at_999999999": 2.0}
    steps = dict.fromkeys((0, 1, 2**53), unknown | large | others)
    run = write_metrics(tmp_path / "run", steps)
    print_summary([run], Console(file=io.StringIO(), width=200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Matplotlib's, of a scale without data.
        page = write_report([run], tmp_path / "report")
    assert page.read_text().count("<img") >= 4


@pytest.mark.parametrize("seed", range(3))
def test_random_damage_never_ends_in_anything_but_a_message(good, tmp_path, seed):
    rng = random.Random(seed)
    for number in range(40):
        run = shutil.copytree(good, tmp_path / f"{number}" / "run")
        path = run / rng.choice(["metrics.jsonl", SAMPLES, "config.yaml"])
        content = bytearray(path.read_bytes())
        for _ in range(rng.choice([1, 3, 50])):
            start = rng.randrange(len(content))
            pieces = [b"", b"\n", b'"', b"{", b"\xff", b"9" * 9, b"null", rng.randbytes(5)]
            damage = rng.choice(pieces)
            content[start : start + rng.choice([0, 1, 20, len(damage)])] = damage
        path.write_bytes(content)
        assert not (report(run) or "").startswith("names no file")
        shutil.rmtree(run.parent)
