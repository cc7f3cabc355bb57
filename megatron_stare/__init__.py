"""megatron_stare: reinforcement learning with verifiable rewards that keeps entropy in a band.

What is for others to use has its name here, and is imported when it is asked for:

    from megatron_stare import TrainConfig, load_config, run_links
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from megatron_stare.algorithms.advantages import group_advantages as group_advantages
    from megatron_stare.algorithms.losses import clipped_policy_loss as clipped_policy_loss
    from megatron_stare.algorithms.offline import run_links as run_links
    from megatron_stare.algorithms.offline import run_loss as run_loss
    from megatron_stare.algorithms.stare import StareConfig as StareConfig
    from megatron_stare.algorithms.stare import StareController as StareController
    from megatron_stare.algorithms.stare import stare_weights as stare_weights
    from megatron_stare.algorithms.table import METHODS as METHODS
    from megatron_stare.config.commands import TrainConfig as TrainConfig
    from megatron_stare.config_io import load_config as load_config
    from megatron_stare.errors import UserError as UserError
    from megatron_stare.ops.logprob_entropy import linear_logprob_entropy as linear_logprob_entropy
    from megatron_stare.ops.logprob_entropy import logprob_entropy as logprob_entropy
    from megatron_stare.ops.selection import global_top_k as global_top_k
    from megatron_stare.rewards.math import math_reward as math_reward

_HOMES = {
    "METHODS": "algorithms.table",
    "StareConfig": "algorithms.stare",
    "StareController": "algorithms.stare",
    "TrainConfig": "config.commands",
    "UserError": "errors",
    "clipped_policy_loss": "algorithms.losses",
    "global_top_k": "ops.selection",
    "group_advantages": "algorithms.advantages",
    "linear_logprob_entropy": "ops.logprob_entropy",
    "load_config": "config_io",
    "logprob_entropy": "ops.logprob_entropy",
    "math_reward": "rewards.math",
    "run_links": "algorithms.offline",
    "run_loss": "algorithms.offline",
    "stare_weights": "algorithms.stare",
}
"""Where each name is: torch is imported with the first that needs it."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
