"""`megatron-stare pivots`: the states of a data set whose sampled continuations vary."""

from __future__ import annotations

import argparse

from megatron_stare.commands.of_config import add_of_config
from megatron_stare.config.pivots import PivotsConfig
from megatron_stare.config_io import load_config


def add_pivots(commands: argparse._SubParsersAction) -> None:
    """`pivots CONFIG [section.key=value ...]`."""
    summary = "the states of a data set whose sampled continuations vary"
    add_of_config(commands, "pivots", _pivots, summary, PivotsConfig)


def _pivots(arguments: argparse.Namespace) -> int:
    config = load_config(PivotsConfig, arguments.config, arguments.overrides)
    from megatron_stare.find_pivots import find_pivots

    for name, value in find_pivots(config).items():
        print(f"{name}\t{value}")
    return 0
