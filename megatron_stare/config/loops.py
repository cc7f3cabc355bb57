"""The configs of the commands that train a policy."""

from __future__ import annotations

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.prefer import PreferConfig
from megatron_stare.config.sft import SftConfig

LoopConfig = TrainConfig | SftConfig | PreferConfig

LOOPS: dict[str, type[LoopConfig]] = {
    kind.command: kind for kind in (TrainConfig, SftConfig, PreferConfig)
}
"""By command, whose name is that of the section of its loop, too."""
