"""The config of every command that has one."""

from __future__ import annotations

from pydantic import BaseModel

from megatron_stare.config.compare import CompareConfig
from megatron_stare.config.evaluation import EvalConfig
from megatron_stare.config.loops import LOOPS
from megatron_stare.config.pivots import PivotsConfig

KINDS: dict[str, type[BaseModel]] = {
    **LOOPS,
    "eval": EvalConfig,
    "pivots": PivotsConfig,
    "compare": CompareConfig,
}
"""By command."""
