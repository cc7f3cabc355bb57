"""What the report shows of held-out sets: of an evaluation's folder, and of a run that trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_stare.observe.held_out_figure import draw_held_out, sets_of
from megatron_stare.observe.history import JsonlLogger
from megatron_stare.observe.plots import write_figures
from megatron_stare.observe.run_folders import read_runs
from megatron_stare.observe.summary import summarise

OF_SETS = {"aime24": (0.25, 0.07), "math500": (0.75, 0.02)}


def folder_of(path: Path, steps: dict[int, float], config: str) -> Path:
    """Held-out sets whose accuracy is `gain` above the first's, by step."""
    path.mkdir()
    (path / "config.yaml").write_text(config)
    logger = JsonlLogger(path, print)
    for step, gain in steps.items():
        metrics = {"eval/avg_at_k": 0.5 + gain, "eval/avg_at_k_se": 0.0364}
        for name, (average, error) in OF_SETS.items():
            prefix = f"eval/set/{name}"
            metrics |= {f"{prefix}/avg_at_k": average + gain, f"{prefix}/avg_at_k_se": error}
            metrics |= {f"{prefix}/pass_at_{k}": average + gain for k in (1, 2, 4)}
            metrics |= {f"{prefix}/maj_at_k": average}
        logger.log(step, metrics)
    logger.close()
    return path


@pytest.fixture
def evaluation(tmp_path):
    return folder_of(tmp_path / "final", {40: 0.1}, "eval: {}\n")


@pytest.fixture
def training(tmp_path):
    return folder_of(tmp_path / "run", {0: 0.0, 20: 0.1, 40: 0.2}, "train: {steps: 40}\n")


def test_bars_are_the_last_evaluation_and_whiskers_its_error(evaluation, training):
    runs = read_runs([evaluation, training])
    assert [*sets_of(runs).values()] == ["aime24", "math500", "mean"]
    averages, *curves = draw_held_out(runs).axes
    heights = [round(bar.get_height(), 6) for bar in averages.patches]
    assert heights == [0.35, 0.85, 0.6, 0.45, 0.95, 0.7]
    whiskers = [lines.get_segments()[0][:, 1].tolist() for lines in averages.collections]
    assert whiskers[0] == pytest.approx([0.28, 0.42])
    assert [axes.get_title() for axes in curves] == ["aime24: pass@k", "math500: pass@k"]
    assert curves[0].lines[0].get_xdata().tolist() == [1, 2, 4]


def test_curves_over_steps_are_of_runs_that_evaluate_again(evaluation, training, tmp_path):
    alone = {plot.path.stem for plot in write_figures(read_runs([evaluation]), tmp_path / "a")}
    both = write_figures(read_runs([evaluation, training]), tmp_path / "b")
    assert "held_out" in alone
    assert "held_out_steps" not in alone
    (steps,) = [plot for plot in both if plot.path.stem == "held_out_steps"]
    assert steps.metrics == ("eval/set/aime24/avg_at_k", "eval/set/math500/avg_at_k")


def test_the_table_has_what_each_set_comes_to(evaluation):
    rows = {row[0]: row[1] for row in summarise(read_runs([evaluation])).rows}
    assert rows["aime24: avg@4, end"] == "35.0%"
    assert rows["aime24: standard error of avg@4, end"] == "7.0%"
    assert rows["math500: pass@4, end"] == "85.0%"
    assert rows["math500: maj@4, end"] == "75.0%"
