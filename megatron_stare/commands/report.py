"""`megatron-stare report`: figures and one HTML page comparing runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_stare.commands.arguments import path


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`report RUN [RUN ...] [--out FOLDER]`."""
    command.add_argument("runs", nargs="+", type=path, metavar="RUN", help="run folders")
    command.add_argument("--out", type=path, default=Path("report"), help="folder to write")
    command.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from megatron_stare.observe.console import open_console
    from megatron_stare.observe.report import write_report
    from megatron_stare.observe.summary import print_summary

    print_summary(arguments.runs, open_console(quiet=False))
    print(write_report(arguments.runs, arguments.out))
    return 0
