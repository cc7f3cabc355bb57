"""The command line: `megatron-stare train | sft | prefer | eval | serve | slurm | convert | ...`.

Exit codes: 0 done, 1 `verify` found a difference, `compare` has a run that is unfinished or a call
of `tools` went wrong, 2 bad input (one clear line on standard error), 75 stopped by SIGTERM,
SIGUSR1 or Ctrl-C and saved, 130 interrupted before that, 141 nobody reads standard output.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import select
import signal
import sys
import warnings
from collections.abc import Sequence
from io import UnsupportedOperation

from megatron_stare import __version__
from megatron_stare.commands.arguments import Parser, parse
from megatron_stare.errors import ReportedUserError, Stopped, UserError
from megatron_stare.system.signals import STOPPED

COMMANDS = {
    "train": "reinforcement learning of a policy",
    "sft": "packed supervised fine-tuning",
    "prefer": "learning from pairs of a better and a worse response",
    "eval": "avg@k, pass@k and maj@k of a Hugging Face folder, or of a run's policy",
    "pivots": "the states of a data set whose sampled continuations vary",
    "serve": "SGLang servers on this machine, until interrupted",
    "compare": "runs of several methods over seeds, and their paired differences",
    "slurm": "the sbatch script of a run, as the config's slurm section says",
    "directions": "directions among several objectives: into prompts, and the best responses "
    "along them",
    "convert": "a Hugging Face folder to a Megatron-Core checkpoint, or back",
    "verify": "compare two models, Hugging Face folders or checkpoints: every tensor, and "
    "log-probs",
    "plan": "memory, communication and time of a training run, without a GPU",
    "config": "print the resolved config",
    "methods": "the methods and their parts, or what one of them is",
    "tools": "the tools that a model may call, the schema of one, or what it answers",
    "completion": "a script by which bash or zsh completes commands, options and keys",
    "view": "what a run decided, token by token: in the terminal, or as one HTML page",
    "report": "figures and one HTML page comparing runs",
}
"""What each does, in the order of the help; its module in `commands` says what it takes."""

_OF_DISKS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EIO, errno.EROFS, errno.ESTALE),
    errno.ENOENT,  # Of `tempfile`, where no folder for temporary files takes one.
}
"""What a write fails with that is no mistake of a program; such an error names no file."""


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
        if error.filename is None and error.errno not in _OF_DISKS:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"megatron-stare: error: {where}{error.strerror}", file=sys.stderr)
        return 2


def _run(argv: Sequence[str] | None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse(*parsers(argv), argv)
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


def parsers(argv: Sequence[str]) -> tuple[Parser, dict[str, Parser]]:
    """The whole, and the part of each command; the one that is asked for takes its arguments.

    Only that one is imported: most need torch, and help is there at once.
    """
    parser = Parser(
        prog="megatron-stare", description="Reinforcement learning with verifiable rewards."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    asked = next((word for word in argv if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            conflict_handler="resolve",  # A command may have a --help of its own.
        )
        if name == asked:
            importlib.import_module(f"megatron_stare.commands.{name}").add_arguments(command)
    return parser, commands.choices


if __name__ == "__main__":
    sys.exit(main())
