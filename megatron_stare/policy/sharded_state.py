"""A chunk's parameters for a checkpoint, the same with Transformer Engine's layers and without.

Beside parameters, modules keep an object named `_extra_state`: scales of FP8, of which there are
none here. Transformer Engine's norms have one, torch's have not, so it is neither saved nor asked
for: a checkpoint of one kind of layers is one of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron.core.transformer.module import MegatronModule

_EXTRA_STATE = "_extra_state"


def sharded_parameters(chunk: MegatronModule, **options: Any) -> dict[str, Any]:
    """This rank's parameters, by name, and their places in those of the whole network.

    Args:
        options: of Megatron's `sharded_state_dict`.
    """
    state = chunk.sharded_state_dict(**options)
    return {name: entry for name, entry in state.items() if not name.endswith(_EXTRA_STATE)}


def load_parameters(chunk: MegatronModule, loaded: Mapping[str, Any]) -> None:
    """Copy what was loaded for `sharded_parameters` into the chunk, casting to its dtype.

    Raises:
        ValueError: a parameter is missing, or one is not the chunk's.
    """
    missing, unexpected = chunk.load_state_dict(loaded, strict=False)
    missing = [name for name in missing if not name.endswith(_EXTRA_STATE)]
    if missing or unexpected:
        raise ValueError(f"parameters {missing} are missing, {unexpected} are not the network's")
