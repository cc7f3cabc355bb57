"""Where a Megatron-Core checkpoint holds a parameter.

The layers of a network share one key, and so do the experts of all layers: their parameters are
stacked in leading dimensions,

    decoder.layers.3.mlp.linear_fc2.weight
        decoder.layers.mlp.linear_fc2.weight                    [layers, hidden, ffn]
    decoder.layers.3.mlp.experts.local_experts.7.linear_fc2.weight
        decoder.layers.mlp.experts.experts.linear_fc2.weight    [layers, experts, hidden, ffn]

behind which stands the parameter as a single rank holds it. Beside every linear layer and norm
stands an object with the state of its FP8 scales, here always None: without Transformer Engine
Megatron-Core asks for those of linear layers, with it also for those of norms.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from megatron_stare.weights.rules import MEGATRON_EXPERT, MEGATRON_LAYER, Entry

_LAYERS = MEGATRON_LAYER.replace("{}.", "")
_EXPERTS = MEGATRON_EXPERT.replace("local_experts.{}", "experts")


@dataclass(frozen=True, slots=True)
class Place:
    """The part of the stored tensor `key` that is one parameter."""

    key: str
    index: tuple[int, ...]
    """Its position in the leading dimensions: layer, expert."""
    counts: tuple[int, ...]
    """The sizes of the leading dimensions."""
    shape: tuple[int, ...]
    """The parameter's own, on a single rank."""

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where the part begins in each dimension."""
        return *self.index, *(0 for _ in self.shape)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How far it goes in each dimension."""
        return *(1 for _ in self.index), *self.shape

    @property
    def num_elements(self) -> int:
        """Of the parameter."""
        return math.prod(self.shape)

    @property
    def global_shape(self) -> tuple[int, ...]:
        """The shape of the whole tensor."""
        return *self.counts, *self.shape

    @property
    def extra_state(self) -> str | None:
        """The key of the object beside it, if it is the weight of a linear layer or a norm."""
        module, _, name = self.key.rpartition(".")
        if name != "weight" or not re.search(r"\.(linear_\w+|\w+_layernorm)$", module):
            return None
        index = ".".join(map(str, self.index or (0,)))
        counts = ".".join(map(str, self.counts or (1,)))
        return f"{module}._extra_state/shard_{index}_{counts}"


def place_of(entry: Entry) -> Place:
    """Where the parameter of an entry is stored."""
    layer = MEGATRON_LAYER.format(entry.layer)
    in_layers = entry.megatron.startswith(layer)
    index: tuple[int, ...] = (entry.layer,) if in_layers else ()
    counts: tuple[int, ...] = (entry.shape.num_layers,) if in_layers else ()
    key = entry.megatron.replace(layer, _LAYERS, 1)
    if entry.expert is not None:
        index, counts = (*index, entry.expert), (*counts, entry.shape.num_experts)
        key = key.replace(MEGATRON_EXPERT.format(entry.expert), _EXPERTS, 1)
    return Place(key, index, counts, entry.shard_shape(1))
