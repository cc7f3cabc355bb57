"""`megatron-stare compare`: methods over seeds, and one table of their differences."""

from __future__ import annotations

import argparse

from megatron_stare.commands.of_config import take_config
from megatron_stare.config.compare import CompareConfig
from megatron_stare.config_io import load_config

RUN_FAILED = 1
"""Exit code where a run is not finished."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`compare CONFIG [--dry-run | --table | --slurm | --submit]`."""
    take_config(command, _compare, CompareConfig)
    what = command.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="check and print the plan, no more")
    what.add_argument("--table", action="store_true", help="run nothing; table of what is there")
    what.add_argument(
        "--slurm", action="store_true", help="write the script of a job array of the runs, no more"
    )
    what.add_argument("--submit", action="store_true", help="the same, and submit it")


def _compare(arguments: argparse.Namespace) -> int:
    config = load_config(CompareConfig, arguments.config, arguments.overrides)
    from megatron_stare.compare import comparison
    from megatron_stare.compare.plan import check_array, check_runs_here, check_settings, plan_runs
    from megatron_stare.observe.console import open_console
    from megatron_stare.slurm.submit import submit
    from megatron_stare.system.output import check_folder

    runs = plan_runs(config)
    check_settings(runs)
    if arguments.slurm or arguments.submit:
        check_array(runs)
    elif not arguments.table:
        check_runs_here(runs, len(comparison.places(config.jobs)))
    check_folder(config.dir, "dir")
    console = open_console(quiet=False)
    comparison.print_plan(config, runs, console)
    if arguments.dry_run:
        return 0
    if arguments.slurm or arguments.submit:
        script = comparison.write_array(config, runs)
        print(script)
        return submit(script) if arguments.submit else 0
    problems = {} if arguments.table else comparison.run_here(config, runs, console)
    found = comparison.write_outcome(config, runs, problems, console)
    return 0 if all(result.problem is None for result in found.results) else RUN_FAILED
