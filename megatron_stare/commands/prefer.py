"""`megatron-stare prefer`: learning from pairs of a better and a worse response."""

from __future__ import annotations

import argparse

from megatron_stare.commands.of_config import take_config
from megatron_stare.config.prefer import PreferConfig
from megatron_stare.config_io import load_config
from megatron_stare.system.output_stream import give_up_unwritten_output


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`prefer CONFIG [section.key=value ...]`."""
    take_config(command, _prefer, PreferConfig)


def _prefer(arguments: argparse.Namespace) -> int:
    config = load_config(PreferConfig, arguments.config, arguments.overrides)
    from megatron_stare.prefer import prefer

    prefer(config)
    give_up_unwritten_output()
    return 0
