"""Comparisons of runs that learn from given responses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from megatron_stare.cli import main
from megatron_stare.compare.comparison import run_here
from megatron_stare.compare.plan import check_array, check_runs_here, check_settings, plan_runs
from megatron_stare.compare.results import read_results
from megatron_stare.config.compare import CompareConfig
from megatron_stare.errors import UserError
from megatron_stare.observe.console import open_console
from tests.unit.compare.folders import (
    read_comparison,
    write_finished_on_pairs,
    write_pairs_base,
)

KEYS = {"methods": ["dpo", "simpo"]}
ACCURACIES = {("dpo", 1): 0.5, ("dpo", 2): 0.5, ("simpo", 1): 0.75, ("simpo", 2): 1.0}


@pytest.fixture
def folder(tmp_path) -> Path:
    write_pairs_base(tmp_path)
    return tmp_path


def test_its_runs_are_of_the_command_of_its_base(folder):
    runs = plan_runs(read_comparison(folder, **KEYS))
    check_settings(runs)
    check_runs_here(runs, num_places=2)
    assert {run.config.command for run in runs} == {"prefer"}
    assert [run.config.algorithm.method for run in runs[:2]] == ["dpo", "simpo"]


def test_what_pairs_have_is_compared(folder):
    config = read_comparison(folder, **KEYS)
    runs = plan_runs(config)
    for run in runs:
        assert not run.is_finished
        write_finished_on_pairs(run, accuracy=ACCURACIES[run.name, run.seed])
        assert run.is_finished
    comparison, _ = read_results(runs, config.baseline_name, {})
    assert list(comparison.columns) == ["pairs_accuracy", "pairs_loss", "seconds"]
    found = comparison.difference("simpo", "pairs_accuracy")
    assert found is not None
    assert found.mean == 0.375
    assert main(["compare", str(folder / "compare.yaml"), "--table"]) == 0
    assert (folder / "compared" / "comparison.png").stat().st_size > 0


def test_a_run_without_its_last_evaluation_is_not_finished(folder):
    run = plan_runs(read_comparison(folder, **KEYS))[0]
    write_finished_on_pairs(run, accuracy=0.5)
    path = run.folder / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert not run.is_finished


def test_each_is_run_by_its_command(folder, monkeypatch):
    """A command that only says what it was asked."""
    said = "import sys; print(sys.argv[1:]); raise SystemExit(1)"
    monkeypatch.setattr("megatron_stare.compare.comparison._PROGRAM", (sys.executable, "-c", said))
    config = read_comparison(folder, seeds=[1], **KEYS)
    problems = run_here(config, plan_runs(config), open_console(quiet=True))
    place = folder / "compared" / "configs" / "dpo-seed1.yaml"
    assert problems["dpo-seed1"] == f"exit code 1: ['prefer', '{place}']"


def test_an_array_runs_it_too(folder, capsys):
    keys = {"slurm.gpus_per_node": 0, "slurm.processes_per_node": 1}
    check_array(plan_runs(read_comparison(folder, settings=keys, **KEYS)))
    assert main(["compare", str(folder / "compare.yaml"), "--slurm"]) == 0
    assert 'cli prefer "$CONFIG"' in (folder / "compared" / "job.sbatch").read_text()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"methods": ["dpo", "grpo"]}, r"^grpo-seed1: .*0 of links=\[grpo\] compare pairs"),
        (
            {"variants": {"sft": {"sft.steps": 3}}},
            r"^sft-seed1: .*has sections sft and prefer, expected one",
        ),
        ({"settings": {"eval.data.path": "no.jsonl"}}, r"^dpo-seed1: eval.data.path=no.jsonl"),
        ({"variants": {"also": {"algorithm.method": "dpo"}}}, r"^also and dpo are the same run"),
    ],
)
def test_every_config_is_checked_before_the_first_run(folder, keys, said):
    with pytest.raises(UserError, match=said):
        check(read_comparison(folder, **KEYS | keys))
    assert not (folder / "compared").exists()


def check(config: CompareConfig) -> None:
    runs = plan_runs(config)
    check_settings(runs)
    check_runs_here(runs, num_places=1)


def test_runs_of_two_commands_are_no_comparison(folder):
    """Where the base leaves open which it is for."""
    (folder / "train.yaml").write_text(
        f"model: {{path: {folder}/model}}\n"
        f"data: {{path: {folder}/problems.jsonl, max_tokens: 64}}\n"
    )
    variants = {"a": {"prefer.steps": 3}, "b": {"sft.steps": 3}}
    with pytest.raises(UserError, match=r"^b-seed1 is of `sft`, a-seed1 of `prefer`"):
        check_settings(plan_runs(read_comparison(folder, methods=[], variants=variants)))
