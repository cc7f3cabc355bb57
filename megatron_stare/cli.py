"""The command line: `megatron-stare train | sft | prefer | eval | serve | slurm | convert | ...`.

Exit codes: 0 done, 1 `verify` found a difference, `compare` has a run that is unfinished or a call
of `tools` went wrong, 2 bad input (one clear line on standard error), 75 stopped by SIGTERM or
SIGUSR1 and saved, 130 interrupted, 141 nobody reads standard output.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import warnings
from collections.abc import Sequence
from io import UnsupportedOperation

from megatron_stare import __version__
from megatron_stare.commands.arguments import Parser, parse
from megatron_stare.commands.compare import add_compare
from megatron_stare.commands.config import add_config
from megatron_stare.commands.convert import add_convert
from megatron_stare.commands.directions import add_directions
from megatron_stare.commands.eval import add_eval
from megatron_stare.commands.methods import add_methods
from megatron_stare.commands.pivots import add_pivots
from megatron_stare.commands.plan import add_plan
from megatron_stare.commands.prefer import add_prefer
from megatron_stare.commands.report import add_report
from megatron_stare.commands.serve import add_serve
from megatron_stare.commands.sft import add_sft
from megatron_stare.commands.slurm import add_slurm
from megatron_stare.commands.tools import add_tools
from megatron_stare.commands.train import add_train
from megatron_stare.commands.verify import add_verify
from megatron_stare.errors import ReportedUserError, Stopped, UserError
from megatron_stare.system.signals import STOPPED

_COMMANDS = (
    add_train,
    add_sft,
    add_prefer,
    add_eval,
    add_pivots,
    add_serve,
    add_compare,
    add_slurm,
    add_directions,
    add_convert,
    add_verify,
    add_plan,
    add_config,
    add_methods,
    add_tools,
    add_report,
)
"""In the order of the help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    try:
        try:
            return _run(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if (lost := _lost_output()) is not None:
            return _end_unheard(lost)
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"megatron-stare: error: {where}{error.strerror}", file=sys.stderr)
        return 2


def _run(argv: Sequence[str] | None) -> int:
    arguments = parse(*_parser(), argv)
    # Notices from libraries to their own developers; ours are errors, or lines of the console.
    warnings.filterwarnings("ignore", module=r"(torch|megatron\.core|transformers)\b")
    try:
        return arguments.run(arguments)
    except ReportedUserError:
        return 2
    except UserError as error:
        print(f"megatron-stare: error: {error}", file=sys.stderr)
        return 2
    except Stopped:
        return STOPPED
    except KeyboardInterrupt:
        print("megatron-stare: interrupted", file=sys.stderr)
        return 130


def _lost_output() -> OSError | None:
    """Why standard output takes nothing: a full disk, or a pipe that nobody reads; else None."""
    if sys.stdout is None:
        return None
    try:
        sys.stdout.flush()
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        is_unread = any(event & select.POLLERR for _, event in poll.poll(0))
    except UnsupportedOperation:  # No file.
        return None
    except OSError as error:
        return error
    return BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) if is_unread else None


def _end_unheard(lost: OSError) -> int:
    """Say why, and leave nothing that the interpreter would write at its end, and fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    try:
        print(f"megatron-stare: standard output: {lost.strerror}", file=sys.stderr, flush=True)
    except OSError:
        os.dup2(nowhere, sys.stderr.fileno())
    return 128 + signal.SIGPIPE if lost.errno == errno.EPIPE else 2


def _parser() -> tuple[Parser, dict[str, Parser]]:
    """The whole, and the part of each command."""
    parser = Parser(
        prog="megatron-stare", description="Reinforcement learning with verifiable rewards."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in _COMMANDS:
        add(commands)
    return parser, commands.choices


if __name__ == "__main__":
    sys.exit(main())
