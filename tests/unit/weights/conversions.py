"""Conversions of small models, in many parts."""

from __future__ import annotations

from pathlib import Path

from megatron_stare.weights.conversion import run_conversion
from megatron_stare.weights.hf_to_megatron import HfToMegatron
from megatron_stare.weights.megatron_to_hf import MegatronToHf

SMALL = {"part_bytes": 20_000, "threads": 2}
"""Many parts."""


def to_megatron(source: Path, destination: Path, dtype=None, **options) -> Path:
    run_conversion(HfToMegatron(source, dtype=dtype), destination, **SMALL | options)
    return destination


def to_hf(source: Path, destination: Path, *, max_shard_bytes=100_000, **options) -> Path:
    conversion = MegatronToHf(source, max_shard_bytes=max_shard_bytes)
    run_conversion(conversion, destination, **SMALL | options)
    return destination
