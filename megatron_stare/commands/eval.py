"""`megatron-stare eval`: avg@k, pass@k and maj@k of a Hugging Face folder."""

from __future__ import annotations

import argparse

from megatron_stare.commands.of_config import take_config
from megatron_stare.config.evaluation import EvalConfig
from megatron_stare.config_io import load_config


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`eval CONFIG [section.key=value ...]`."""
    take_config(command, _eval, EvalConfig)


def _eval(arguments: argparse.Namespace) -> int:
    config = load_config(EvalConfig, arguments.config, arguments.overrides)
    from megatron_stare.evaluate_folder import evaluate_folder

    evaluate_folder(config)
    return 0
