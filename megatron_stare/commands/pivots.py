"""`megatron-stare pivots`: the states of a data set whose sampled continuations vary."""

from __future__ import annotations

import argparse

from megatron_stare.commands.of_config import take_config
from megatron_stare.config.pivots import PivotsConfig
from megatron_stare.config_io import load_config


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`pivots CONFIG [section.key=value ...]`."""
    take_config(command, _pivots, PivotsConfig)


def _pivots(arguments: argparse.Namespace) -> int:
    config = load_config(PivotsConfig, arguments.config, arguments.overrides)
    from megatron_stare.find_pivots import find_pivots

    for name, value in find_pivots(config).items():
        print(f"{name}\t{value}")
    return 0
