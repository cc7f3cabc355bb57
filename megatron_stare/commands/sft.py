"""`megatron-stare sft`: packed supervised fine-tuning."""

from __future__ import annotations

import argparse

from megatron_stare.commands.of_config import take_config
from megatron_stare.config.sft import SftConfig
from megatron_stare.config_io import load_config
from megatron_stare.system.output_stream import give_up_unwritten_output


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`sft CONFIG [section.key=value ...]`."""
    take_config(command, _sft, SftConfig)


def _sft(arguments: argparse.Namespace) -> int:
    config = load_config(SftConfig, arguments.config, arguments.overrides)
    from megatron_stare.sft import sft

    sft(config)
    give_up_unwritten_output()
    return 0
