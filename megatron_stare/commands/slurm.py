"""`megatron-stare slurm`: a run as a Slurm job."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from megatron_stare.commands.arguments import path
from megatron_stare.config.loops import LOOPS, LoopConfig
from megatron_stare.config_io import load_config, load_one_of


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`slurm CONFIG [--submit | --dry-run]`."""
    command.add_argument("config", type=path, help="of `megatron-stare train`, sft or prefer")
    command.add_argument("overrides", nargs="*", metavar="section.key=value", help="overrides")
    command.add_argument(
        "--out", type=path, help="file to write (default: job.sbatch in the run's folder)"
    )
    what = command.add_mutually_exclusive_group()
    what.add_argument("--submit", action="store_true", help="submit it, too")
    what.add_argument(
        "--dry-run",
        action="store_true",
        help="print it, and do nothing else; model and data need not be here",
    )
    command.set_defaults(run=_slurm)


def _slurm(arguments: argparse.Namespace) -> int:
    config = load_one_of(LOOPS, arguments.config, arguments.overrides)
    from megatron_stare.run.preflight import check_run
    from megatron_stare.slurm.script import render
    from megatron_stare.slurm.submit import submit, write_script
    from megatron_stare.system.output import make_folder, writing

    script = render(config, arguments.config, arguments.overrides)
    runs = _runs(config, arguments.config, arguments.overrides)
    if arguments.dry_run:
        print(script, end="")
        return 0
    for run in runs:
        check_run(run, config.slurm.nodes * config.slurm.processes_per_node)
    out: Path = arguments.out or config.run.dir / "job.sbatch"
    make_folder(out.parent, "--out" if arguments.out else "run.dir")
    with writing(out, "--out"):
        write_script(out, script)
    print(out)
    return submit(out) if arguments.submit else 0


def _runs(config: LoopConfig, path: Path, overrides: Sequence[str]) -> list[LoopConfig]:
    """Of the job: one, or those of its sweep; UserError where one's settings cannot be."""
    sweep = (settings.split() for settings in config.slurm.sweep)
    return [config, *(load_config(type(config), path, [*overrides, *run]) for run in sweep)]
