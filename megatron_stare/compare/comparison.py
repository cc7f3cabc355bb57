"""A comparison from its plan to its table."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from megatron_stare.compare.figure import write_figure
from megatron_stare.compare.local import Job, last_line, run_jobs
from megatron_stare.compare.plan import PlannedRun
from megatron_stare.compare.results import Comparison, read_results
from megatron_stare.compare.table import differences_table, means_table, to_json, to_markdown
from megatron_stare.config.compare import CompareConfig
from megatron_stare.config_io import to_yaml
from megatron_stare.errors import Stopped, UserError
from megatron_stare.launch.environment import visible_gpus
from megatron_stare.launch.gpus import count_gpus
from megatron_stare.observe.console import print_line, print_table
from megatron_stare.slurm.script import ArrayRun, render_array
from megatron_stare.slurm.submit import write_script
from megatron_stare.system.folders import write_whole
from megatron_stare.system.output import make_folder, writing
from megatron_stare.system.signals import stop_requests

_PROGRAM = (sys.executable, "-m", "megatron_stare.cli")
_MARGIN_S = 60.0
"""To write the table, when the runs have used their own time to save."""


def print_plan(config: CompareConfig, runs: Sequence[PlannedRun], console: Console) -> None:
    """What would run, and how much of it is there."""
    settings = {name: config.settings_of(name) for name in config.arms}
    first, *others = settings.values()
    of_all = [text for text in first if all(text in other for other in others)]
    rows = []
    for name in config.arms:
        own = [run for run in runs if run.name == name]
        finished = sum(run.is_finished for run in own)
        begun = sum(run.has_begun for run in own) - finished
        differs = " ".join(text for text in settings[name] if text not in of_all) or "nothing"
        counts = (finished, begun, len(own) - finished - begun)
        rows.append([name, differs, *map(str, counts)])
    seeds = ", ".join(map(str, config.seeds))
    print_line(
        console,
        f"{config.dir}: {len(runs)} runs of {config.base}, seeds {seeds}, "
        f"baseline {config.baseline_name}",
    )
    if of_all:
        print_line(console, f"every run: {' '.join(of_all)}")
    print_table(console, ["", "differs by", "finished", "begun", "to begin"], rows)


def run_here(config: CompareConfig, runs: Sequence[PlannedRun], console: Console) -> dict[str, str]:
    """Run what is not finished, as many at a time as the config says; problems by title.

    Raises:
        UserError: the comparison's folder cannot be written.
    """
    left = [run for run in runs if not run.is_finished]
    make_folder(config.dir / "logs", "dir")
    jobs = [Job(run.title, _command(config, run), _log(config, run)) for run in left]
    grace_s = max(run.config.checkpoint.grace_s for run in runs)
    with stop_requests(grace_s + _MARGIN_S) as stop:
        problems = run_jobs(jobs, places(config.jobs), stop, lambda line: print_line(console, line))
        if stop.is_set:
            write_outcome(config, runs, problems, console)
            raise Stopped
    return problems


def _command(config: CompareConfig, run: PlannedRun) -> list[str]:
    return [*_PROGRAM, run.config.command, str(write_config(config, run))]


def write_array(config: CompareConfig, runs: Sequence[PlannedRun]) -> Path:
    """The script of a job array of the runs that are not finished, `job.sbatch`.

    Raises:
        UserError: they cannot be one array, none is left, or the folder cannot be written.
    """
    left = [run for run in runs if not run.is_finished]
    if not left:
        raise UserError(
            f"{config.dir}: all {len(runs)} runs are finished; expected one that is not"
        )
    array = [ArrayRun(run.config, write_config(config, run), run.folder) for run in left]
    script = render_array(array, config.dir)
    path = config.dir / "job.sbatch"
    with writing(path, "dir"):
        write_script(path, script)
    return path


def write_config(config: CompareConfig, run: PlannedRun) -> Path:
    """The file of a run's config, in the comparison's folder."""
    path = config.dir / "configs" / f"{run.title}.yaml"
    make_folder(path.parent, "dir")
    with writing(path, "dir"):
        write_whole(path, to_yaml(run.config))
    return path


def _last_word(config: CompareConfig, run: PlannedRun) -> str:
    """What is known of a run that is not finished: what it said last, here or as a job."""
    logs = (_log(config, run), run.folder / "logs" / "rank-0.log")
    written = [log for log in logs if log.exists()]
    if not written:
        return "not finished" if run.has_begun else "not begun"
    newest = max(written, key=lambda log: log.stat().st_mtime)
    return f"not finished, it said last: {last_line(newest)}"


def _log(config: CompareConfig, run: PlannedRun) -> Path:
    return config.dir / "logs" / f"{run.title}.log"


def places(jobs: int | None) -> list[dict[str, str]]:
    """Where runs go: one a core, or one a GPU; what tells each its own."""
    gpus = visible_gpus(count_gpus())
    if not gpus:
        return [{} for _ in range(jobs or len(os.sched_getaffinity(0)))]
    return [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} for i in range(jobs or len(gpus))]


def write_outcome(
    config: CompareConfig, runs: Sequence[PlannedRun], problems: Mapping[str, str], console: Console
) -> Comparison:
    """Write comparison.md, .json and, where a run is finished, .png; print the tables.

    Raises:
        UserError: they cannot be written, or the metrics of a finished run cannot be read.
    """
    said = {run.title: _last_word(config, run) for run in runs}
    comparison, finished = read_results(runs, config.baseline_name, said | dict(problems))
    make_folder(config.dir, "dir")
    page = config.dir / "comparison.md"
    with writing(page, "dir"):
        write_whole(page, to_markdown(comparison))
        write_whole(page.with_suffix(".json"), to_json(comparison))
        if finished:
            write_figure(comparison, finished, page.with_suffix(".png"))
    print_table(console, *means_table(comparison))
    if len(comparison.names) > 1:
        print_table(console, *differences_table(comparison))
    for warning in comparison.warnings:
        print_line(console, f"warning: {warning}")
    print_line(console, str(page))
    return comparison
