import io
import re
import subprocess
import sys

import pytest
from rich.console import Console

from megatron_stare.observe.console import (
    HEARTBEAT_S,
    ConsoleLogger,
    Progress,
    open_console,
    print_line,
    print_table,
)
from tests.unit.observe.synthetic import eval_metrics, train_metrics

STEP = {
    "reward/mean": 0.512,
    "reward/accuracy": 0.61234,
    "entropy/mean": 0.2981,
    "stare/gate": 1.0,
    "stare/target": 0.3,
    "rollout/response_tokens_mean": 34.52,
    "optim/grad_norm": 0.8123,
    "time/step_s": 3.21,
    "perf/tokens_per_s": 15012.3,
}


@pytest.fixture
def plain():
    return Console(file=io.StringIO(), highlight=False)


def lines(console):
    return console.file.getvalue().splitlines()


def test_a_step_is_one_line_with_what_a_person_follows(plain):
    ConsoleLogger(plain, num_steps=100).log(12, STEP)
    assert lines(plain) == [
        "step  12/100  reward  0.512  accuracy  61.2%  entropy 0.298/0.3 gate on   "
        "length    34.5  grad   0.812  time    3.2s  tok/s 15,012  left 5m"
    ]


def test_the_time_left_is_that_of_the_last_steps(plain):
    logger = ConsoleLogger(plain, num_steps=1030)
    for step in range(1, 31):
        logger.log(step, {"time/step_s": 100.0 if step <= 10 else 2.0})
    assert lines(plain)[0].endswith("left 28h35m")
    assert lines(plain)[-1].endswith("left 33m")


def test_consecutive_steps_stand_in_columns(plain):
    logger = ConsoleLogger(plain, num_steps=100)
    for step, gate in ((9, 0.0), (10, 1.0)):
        logger.log(step, STEP | {"stare/gate": gate})
    first, second = lines(plain)
    assert first.index("length") == second.index("length")


def test_without_a_target_and_a_number_of_steps_the_line_leaves_them_out(plain):
    step = {name: value for name, value in STEP.items() if not name.startswith("stare/")}
    ConsoleLogger(plain, num_steps=None).log(3, step)
    assert lines(plain)[0].startswith("step 3  reward")
    assert "entropy 0.298  length" in lines(plain)[0]


def test_an_evaluation_has_its_own_line(plain):
    logger = ConsoleLogger(plain, num_steps=None)
    logger.log(5, STEP | {"eval/avg_at_k": 0.5, "eval/pass_at_1": 0.5, "eval/pass_at_16": 0.875})
    assert len(lines(plain)) == 2
    assert lines(plain)[1] == "step 5  held out   avg@k 50.0%  pass@1 50.0%  pass@16 87.5%"


def test_every_held_out_set_has_a_line_with_its_error(plain):
    logger = ConsoleLogger(plain, num_steps=None)
    of_set = {"avg_at_k": 0.25, "avg_at_k_se": 0.071, "pass_at_1": 0.25, "pass_at_2": 0.5}
    sets = {f"eval/set/{s}/{name}": v for s in ("aime24", "aime25") for name, v in of_set.items()}
    logger.log(5, sets | {"eval/avg_at_k": 0.25, "eval/avg_at_k_se": 0.05})
    assert lines(plain) == [
        "step 5  held out aime24   avg@k 25.0% ±7.1%  pass@1 25.0%  pass@2 50.0%",
        "step 5  held out aime25   avg@k 25.0% ±7.1%  pass@1 25.0%  pass@2 50.0%",
        "step 5  held out   avg@k 25.0% ±5.0%",
    ]


def test_supervised_steps_show_their_loss(plain):
    ConsoleLogger(plain, num_steps=9).log(1, {"sft/loss": 1.23456})
    assert lines(plain) == ["step 1/9  loss 1.2346"]


def test_messages_are_printed_as_they_are(plain):
    print_line(plain, "[red]not markup[/red] " + "x" * 200)
    assert lines(plain) == ["[red]not markup[/red] " + "x" * 200]


def test_a_quiet_console_prints_nothing(capsys):
    console = open_console(quiet=True)
    ConsoleLogger(console, num_steps=None).log(1, STEP)
    with Progress(console, bars=True).phase("generate", 3) as advance:
        advance(3)
    print_table(console, ["", "grpo"], [["Steps", "3"]])
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_a_phase_is_a_bar_that_vanishes():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Progress(console, bars=True).phase("generate", 64) as advance:
        advance(16)
    text = console.file.getvalue()
    assert "generate" in text
    assert "16/64" in text
    assert text.rstrip().endswith("\x1b[2K"), "the last thing written erases the bar's line"


def test_elsewhere_a_long_phase_says_now_and_then_how_far_it_is(plain):
    now = 0.0
    with Progress(plain, bars=True, clock=lambda: now).phase("generate", 64) as advance:
        for _ in range(8):
            now += HEARTBEAT_S / 2
            advance(8)
    assert lines(plain) == [f"generate: {done}/64 so far" for done in (16, 32, 48, 64)]


def test_a_short_phase_off_terminal_is_silent(plain):
    with Progress(plain, bars=True).phase("update") as advance:
        advance(1)
    assert lines(plain) == []


def test_a_table_names_its_rows_and_takes_text_as_it_is(plain):
    print_table(plain, ["", "grpo", "[b]stare"], [["Steps", "120", "60"]])
    text = plain.file.getvalue()
    assert re.search(r"grpo +\[b\]stare", text)
    assert re.search(r"Steps +120 +60", text)


def test_every_synthetic_metric_formats(plain):
    import numpy as np

    noise = np.random.default_rng(1)
    metrics = train_metrics(0.05, noise, stare=True, target=0.5)
    metrics |= eval_metrics(0.05, noise, stare=True)
    ConsoleLogger(plain, num_steps=60).log(1, metrics)
    assert len(lines(plain)) == 2


FULL = """
from megatron_stare.observe.console import open_console, print_line
from megatron_stare.system.output_stream import give_up_unwritten_output
for number in range(3000):
    print_line(open_console(quiet=False), f"step {number}")
give_up_unwritten_output()
"""


def test_a_log_on_a_full_disk_costs_its_lines_and_neither_the_run_nor_its_exit_code():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", FULL], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1"])
def test_what_a_locale_cannot_write_is_written_as_escapes(monkeypatch, encoding):
    """Of a template's tokens, say: no locale ends a run at its first line."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    print_line(open_console(quiet=False), "responses end with 7 <\uff5cend\u2581of\uff5c>")
    sys.stdout.flush()
    assert written.getvalue() == b"responses end with 7 <\\uff5cend\\u2581of\\uff5c>\n"
