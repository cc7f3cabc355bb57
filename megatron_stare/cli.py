"""The command line: `megatron-stare train | sft | eval | serve | slurm | convert | plan | ...`.

Exit codes: 0 done, 1 `verify` found a difference, 2 bad input (one clear line on standard error),
75 stopped by SIGTERM or SIGUSR1 and saved, 130 interrupted, 141 nobody reads standard output.
"""

from __future__ import annotations

import argparse
import errno
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from io import UnsupportedOperation
from pathlib import Path

from pydantic import BaseModel

from megatron_stare import __version__
from megatron_stare.commands.arguments import Parser, Port, ServerCount, number, parse, path
from megatron_stare.commands.methods import add_methods
from megatron_stare.commands.plan import add_plan
from megatron_stare.commands.slurm import add_slurm
from megatron_stare.commands.weights import add_convert, add_verify
from megatron_stare.config.commands import EvalConfig, SftConfig, TrainConfig
from megatron_stare.config_io import describe, load_config, to_yaml
from megatron_stare.errors import ReportedUserError, Stopped, UserError
from megatron_stare.system.output_stream import give_up_unwritten_output
from megatron_stare.system.signals import STOPPED
from megatron_stare.system.values import RankCount, Seconds

KINDS: dict[str, type[BaseModel]] = {"train": TrainConfig, "sft": SftConfig, "eval": EvalConfig}


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


def _train(arguments: argparse.Namespace) -> int:
    config = load_config(TrainConfig, arguments.config, arguments.overrides)
    from megatron_stare.train import train

    train(config)
    give_up_unwritten_output()
    return 0


def _sft(arguments: argparse.Namespace) -> int:
    config = load_config(SftConfig, arguments.config, arguments.overrides)
    from megatron_stare.sft import sft

    sft(config)
    give_up_unwritten_output()
    return 0


def _eval(arguments: argparse.Namespace) -> int:
    config = load_config(EvalConfig, arguments.config, arguments.overrides)
    from megatron_stare.evaluate_folder import evaluate_folder

    for name, value in evaluate_folder(config).items():
        print(f"{name}\t{value:.4f}")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from megatron_stare.engines.sglang.serve import ServeOptions, serve
    from megatron_stare.launch.gpus import count_gpus

    serve(
        ServeOptions(
            model=arguments.model,
            python=arguments.python,
            servers=arguments.servers,
            host=arguments.host,
            port=arguments.port,
            registry=arguments.registry,
            dtype=arguments.dtype,
            tensor=arguments.tensor,
            num_gpus=count_gpus(),
            deadline_s=arguments.deadline_s,
            router_python=arguments.router_python if arguments.router else None,
            api_key_env=arguments.api_key_env,
            extra=arguments.sglang,
        )
    )
    return 0


def _config(arguments: argparse.Namespace) -> int:
    config = load_config(KINDS[arguments.kind], arguments.config, arguments.overrides)
    if arguments.processes is not None:
        _check_start(config, arguments.processes)
    print(to_yaml(config), end="")
    return 0


def _check_start(config: BaseModel, num_processes: int) -> None:
    if not isinstance(config, TrainConfig):
        raise UserError("--processes: expected with --kind train, which starts in many")
    from megatron_stare.run.preflight import check_run

    check_run(config, num_processes)


def _report(arguments: argparse.Namespace) -> int:
    from megatron_stare.observe.console import open_console
    from megatron_stare.observe.report import write_report
    from megatron_stare.observe.summary import print_summary

    print_summary(arguments.runs, open_console(quiet=False))
    print(write_report(arguments.runs, arguments.out))
    return 0


def _parser() -> tuple[Parser, dict[str, Parser]]:
    """The whole, and the part of each command."""
    parser = Parser(
        prog="megatron-stare", description="Reinforcement learning with verifiable rewards."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands, "train", _train, "reinforcement learning of a policy")
    _add_run(commands, "sft", _sft, "packed supervised fine-tuning")
    _add_run(commands, "eval", _eval, "avg@k and pass@k of a Hugging Face folder")
    _add_serve(commands)
    add_slurm(commands)
    add_convert(commands)
    add_verify(commands)
    add_plan(commands)
    show = _add_run(commands, "config", _config, "print the resolved config", keys_of=None)
    show.add_argument("--kind", choices=KINDS, default="train", help="what the config is for")
    show.add_argument(
        "--processes",
        type=number(RankCount),
        help="see that a training run in so many processes can start, too",
    )
    add_methods(commands)
    report = commands.add_parser("report", help="figures and one HTML page comparing runs")
    report.add_argument("runs", nargs="+", type=path, metavar="RUN", help="run folders")
    report.add_argument("--out", type=path, default=Path("report"), help="folder to write")
    report.set_defaults(run=_report)
    return parser, commands.choices


def _add_run(
    commands: argparse._SubParsersAction,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    keys_of: str | None = "",
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=None if keys_of is None else _key_table(KINDS[name]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("config", type=path, help="YAML file of differences from the defaults")
    command.add_argument("overrides", nargs="*", metavar="section.key=value", help="overrides")
    command.set_defaults(run=run)
    return command


def _add_serve(commands: argparse._SubParsersAction) -> None:
    summary = "SGLang servers on this machine, until interrupted"
    serve = commands.add_parser("serve", help=summary, description=summary)
    serve.add_argument("model", type=path, help="Hugging Face folder")
    serve.add_argument(
        "--servers", type=number(ServerCount), default=1, help="how many (default: 1)"
    )
    serve.add_argument(
        "--registry",
        type=path,
        default=Path("runs/servers"),
        help="folder to announce them in, and for their logs (default: runs/servers)",
    )
    serve.add_argument("--host", default="127.0.0.1", help="to listen on (default: 127.0.0.1)")
    serve.add_argument(
        "--port", type=number(Port), default=0, help="of the first; 0 takes free ones"
    )
    serve.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    serve.add_argument(
        "--tensor", type=number(RankCount), default=1, help="GPUs per server (default: 1)"
    )
    serve.add_argument(
        "--python",
        type=path,
        default=Path(".venv-sglang/bin/python"),
        help="of the servers' environment (default: .venv-sglang/bin/python)",
    )
    serve.add_argument("--router", action="store_true", help="start sglang-router too")
    serve.add_argument(
        "--router-python",
        type=path,
        default=Path(".venv-router/bin/python"),
        help="of the router's environment (default: .venv-router/bin/python)",
    )
    serve.add_argument(
        "--api-key-env",
        metavar="VARIABLE",
        help="environment variable with the API key that servers and router shall ask for",
    )
    serve.add_argument(
        "--deadline-s", type=number(Seconds), default=600.0, help="seconds to come up"
    )
    serve.add_argument(
        "--sglang",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="ARGUMENT",
        help="everything behind it is for SGLang's own launcher",
    )
    serve.set_defaults(run=_serve)


def _key_table(kind: type[BaseModel]) -> str:
    rows = [
        f"  {key}: {type_} = {default}\n      {text}"
        for key, type_, default, text in describe(kind)
    ]
    return "\n".join(["keys:", *rows])


if __name__ == "__main__":
    sys.exit(main())
