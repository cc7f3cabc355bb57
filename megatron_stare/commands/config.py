"""`megatron-stare config`: a config, every key of it spelled out; or what is different in it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from megatron_stare.commands.arguments import number, path
from megatron_stare.config.kinds import KINDS
from megatron_stare.config.loops import LOOPS
from megatron_stare.config_io import load_config, load_one_of, to_yaml
from megatron_stare.errors import UserError
from megatron_stare.system.nested import dotted
from megatron_stare.system.values import RankCount


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`config CONFIG [section.key=value ...] [--kind KIND] [--diff OTHER | --schema]`."""
    command.add_argument(
        "config", type=path, nargs="?", help="YAML file of differences from the defaults"
    )
    command.add_argument("overrides", nargs="*", metavar="section.key=value", help="overrides")
    command.add_argument(
        "--kind",
        choices=KINDS,
        help="what it is for (default: sft or prefer where it has that section, else train)",
    )
    command.add_argument(
        "--processes",
        type=number(RankCount),
        help="see that a training run in so many processes can start, too",
    )
    what = command.add_mutually_exclusive_group()
    what.add_argument(
        "--diff", type=path, metavar="OTHER", help="only what differs from another config"
    )
    what.add_argument(
        "--schema", action="store_true", help="the JSON schema of such configs, for an editor"
    )
    command.set_defaults(run=_config)


def _config(arguments: argparse.Namespace) -> int:
    file, overrides, kind = arguments.config, arguments.overrides, arguments.kind
    if arguments.schema:
        print(json.dumps(KINDS[kind or "train"].model_json_schema(), indent=2))
        return 0
    if file is None:
        raise UserError("config: expected a file, or --schema")
    config = _load(kind, file, overrides)
    if arguments.processes is not None:
        _check_start(config, kind, arguments.processes)
    if arguments.diff is None:
        print(to_yaml(config), end="")
    else:
        for line in differences(_load(kind, arguments.diff, ()), config):
            print(line)
    return 0


def _load(kind: str | None, file: Path, overrides: Sequence[str]) -> BaseModel:
    if kind is None:
        return load_one_of(LOOPS, file, overrides)
    return load_config(KINDS[kind], file, overrides)


def differences(ours: BaseModel, theirs: BaseModel) -> Iterator[str]:
    """A line for each key that two configs have different values of, in the order of the second.

    >>> from megatron_stare.config.run import LogConfig
    >>> list(differences(LogConfig(), LogConfig(tensorboard=True)))
    ['tensorboard: false -> true']
    """
    before, after = (dict(dotted(config.model_dump(mode="json"))) for config in (ours, theirs))
    for key in {**after, **before}:
        if before.get(key, before) != after.get(key, after):
            values = (json.dumps(of[key]) if key in of else "(none)" for of in (before, after))
            yield f"{key}: {' -> '.join(values)}"


def _check_start(config: Any, kind: str | None, num_processes: int) -> None:
    if not isinstance(config, tuple(LOOPS.values())):
        raise UserError(f"--processes: --kind {kind} is one process, expected train, sft or prefer")
    from megatron_stare.run.preflight import check_run

    check_run(config, num_processes)
