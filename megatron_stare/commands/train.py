"""`megatron-stare train`: reinforcement learning of a policy."""

from __future__ import annotations

import argparse

from megatron_stare.commands.of_config import take_config
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config_io import load_config
from megatron_stare.system.output_stream import give_up_unwritten_output


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`train CONFIG [section.key=value ...]`."""
    take_config(command, _train, TrainConfig)


def _train(arguments: argparse.Namespace) -> int:
    config = load_config(TrainConfig, arguments.config, arguments.overrides)
    from megatron_stare.train import train

    train(config)
    give_up_unwritten_output()
    return 0
