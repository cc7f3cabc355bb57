"""`megatron-stare config`: a config, every key of it spelled out."""

from __future__ import annotations

import argparse
from typing import Any

from pydantic import BaseModel

from megatron_stare.commands.arguments import number
from megatron_stare.commands.of_config import take_config
from megatron_stare.config.commands import EvalConfig
from megatron_stare.config.loops import LOOPS
from megatron_stare.config.pivots import PivotsConfig
from megatron_stare.config_io import load_config, load_one_of, to_yaml
from megatron_stare.errors import UserError
from megatron_stare.system.values import RankCount

_KINDS: dict[str, type[BaseModel]] = {**LOOPS, "eval": EvalConfig, "pivots": PivotsConfig}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`config CONFIG [section.key=value ...] [--kind KIND] [--processes N]`."""
    take_config(command, _config)
    command.add_argument(
        "--kind",
        choices=_KINDS,
        help="what it is for (default: sft or prefer where it has that section, else train)",
    )
    command.add_argument(
        "--processes",
        type=number(RankCount),
        help="see that a training run in so many processes can start, too",
    )


def _config(arguments: argparse.Namespace) -> int:
    path, overrides, kind = arguments.config, arguments.overrides, arguments.kind
    if kind is None:
        config = load_one_of(LOOPS, path, overrides)
    else:
        config = load_config(_KINDS[kind], path, overrides)
    if arguments.processes is not None:
        _check_start(config, kind, arguments.processes)
    print(to_yaml(config), end="")
    return 0


def _check_start(config: Any, kind: str | None, num_processes: int) -> None:
    if isinstance(config, EvalConfig | PivotsConfig):
        raise UserError(f"--processes: --kind {kind} is one process, expected train, sft or prefer")
    from megatron_stare.run.preflight import check_run

    check_run(config, num_processes)
