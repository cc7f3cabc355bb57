import io
import math

import pytest
from rich.console import Console

from megatron_stare.observe.run_folders import read_runs
from megatron_stare.observe.summary import print_summary, summarise
from tests.unit.observe.synthetic import write_metrics, write_run


def cells(folders):
    header, rows = summarise(read_runs(folders))
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def test_entropy_is_judged_against_the_band_over_the_last_half(tmp_path):
    # The band is 0.3 to 0.5, its edges included; the first half does not count.
    values = [9.0, 9.0, 9.0, 9.0, 0.5, 0.29, 0.4, 0.35]
    steps = {
        step: {"entropy/mean": value, "stare/target": 0.4}
        for step, value in enumerate(values, start=1)
    }
    table = cells([write_metrics(tmp_path / "stare", steps)])
    assert table["Last half within target ± 25%"] == {"stare": "75.0%"}
    assert table["Entropy, last half (nats)"] == {"stare": "0.385"}
    assert table["Target entropy, end (nats)"] == {"stare": "0.400"}


def test_a_target_that_moves_is_that_of_each_step(tmp_path):
    steps = {
        step: {"entropy/mean": 0.4, "stare/target": target}
        for step, target in enumerate([0.8, 0.6, 0.5, 0.4, 0.3, 0.2], start=1)
    }
    table = cells([write_metrics(tmp_path / "stare", steps)])
    assert table["Last half within target ± 25%"] == {"stare": "33.3%"}
    assert table["Target entropy, end (nats)"] == {"stare": "0.200"}


def test_several_seeds_are_a_mean_with_its_range(tmp_path):
    runs = [
        write_metrics(
            tmp_path / f"grpo-seed{seed}", {0: {"eval/avg_at_k": 0.1}, 9: {"eval/avg_at_k": end}}
        )
        for seed, end in ((1, 0.5), (2, 0.7))
    ]
    table = cells(runs)
    assert table["Held-out accuracy, start"] == {"grpo (2 seeds)": "10.0%"}
    assert table["Held-out accuracy, end"] == {"grpo (2 seeds)": "60.0% (50.0%–70.0%)"}


def test_what_a_run_trades_its_entropy_for_is_predicted(tmp_path):
    entropies = {step: 1.2 * math.exp(-step / 20) for step in range(1, 41)}
    law = {
        step: {"entropy/mean": entropy, "reward/accuracy": 0.9 - 0.25 * math.exp(entropy)}
        for step, entropy in entropies.items()
    }
    table = cells(
        [write_metrics(tmp_path / "grpo", law), write_metrics(tmp_path / "few", {1: law[1]})]
    )
    title = "Training accuracy where entropy is used up (law)"
    assert table[title] == {"grpo": "65.0%", "few": "–"}


def test_rows_that_no_run_has_are_left_out_and_gaps_are_marked(tmp_path):
    runs = [
        write_metrics(tmp_path / "a", {1: {"sft/loss": 2.0}}),
        write_metrics(tmp_path / "b", {1: {"optim/skipped": 1}, 2: {"optim/skipped": 2}}),
    ]
    table = cells(runs)
    assert set(table) == {"Steps", "SFT loss, last 10% (nats)", "Skipped updates"}
    assert table["SFT loss, last 10% (nats)"] == {"a": "2.000", "b": "–"}
    assert table["Skipped updates"] == {"a": "–", "b": "3"}


def test_values_that_are_not_finite_do_not_count(tmp_path):
    steps = {step: {"entropy/mean": float("nan") if step % 2 else 0.5} for step in range(1, 41)}
    assert cells([write_metrics(tmp_path / "a", steps)])["Entropy, last half (nats)"] == {
        "a": "0.500"
    }


@pytest.mark.parametrize("steps", [1, 2, 3, 11])
def test_short_runs_have_a_first_and_a_last_part(tmp_path, steps):
    values = {step: {"reward/accuracy": step / 16} for step in range(1, steps + 1)}
    table = cells([write_metrics(tmp_path / "a", values)])
    assert table["Training accuracy, first 10%"] == {"a": f"{1 / 16:.1%}"}
    assert table["Training accuracy, last 10%"] == {"a": f"{steps / 16:.1%}"}


def test_the_console_shows_the_comparison(tmp_path):
    runs = [write_run(tmp_path / "grpo"), write_run(tmp_path / "stare", stare=True)]
    console = Console(file=io.StringIO(), width=100)
    print_summary(runs, console)
    text = console.file.getvalue()
    assert "grpo" in text
    assert "Held-out pass@16, end" in text
