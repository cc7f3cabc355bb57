"""`megatron-stare view`: what a run decided, token by token, in a terminal or as an HTML page."""

from __future__ import annotations

import argparse

from megatron_stare.commands.arguments import path
from megatron_stare.errors import UserError


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`view RUN [--html FILE [--steps N ...]]`."""
    command.add_argument("run_dir", type=path, metavar="RUN", help="a run's folder")
    command.add_argument("--html", type=path, metavar="FILE", help="write one HTML page instead")
    command.add_argument(
        "--steps",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="steps of the page (default: as many as it has room for, evenly spread)",
    )
    command.set_defaults(run=_view)


def _view(arguments: argparse.Namespace) -> int:
    from megatron_stare.observe.view.page import write_page
    from megatron_stare.observe.view.reading import read_view

    run = read_view(arguments.run_dir)
    if arguments.html is not None:
        print(write_page(run, arguments.html, sorted({*arguments.steps})))
        return 0
    try:
        from megatron_stare.observe.view.terminal import show
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise UserError(
            "view: needs the package textual: pip install megatron-stare[view], or --html FILE"
        ) from None
    show(run)
    return 0
