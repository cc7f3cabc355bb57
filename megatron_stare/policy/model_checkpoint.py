"""The weights of a model out of a Megatron-Core checkpoint, written in whatever layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron.core import dist_checkpointing
from megatron.core.transformer.module import MegatronModule

from megatron_stare.policy.platform import quietly


def load_model(chunks: Sequence[MegatronModule], folder: Path) -> None:
    """Fill the chunks of this rank's stage in place, casting to their dtype. Collective."""
    wanted = {number: chunk.sharded_state_dict() for number, chunk in enumerate(chunks)}
    with quietly():
        state = dist_checkpointing.load(wanted, str(folder))
    for number, chunk in enumerate(chunks):
        chunk.load_state_dict(state[number])
