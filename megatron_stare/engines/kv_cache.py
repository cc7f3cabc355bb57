"""Keys and values of sequences that decode in step, as many tokens each at a time.

transformers' own caches either copy everything at every token or attend over the whole length
limit, and let no row leave without copying all others.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


class KvCache:
    """One row per sequence, all of one length. What a transformers model needs of a `Cache`.

    The first forward pass fills it with prompts, `expand` gives each sequence its row, every
    further pass appends as many tokens to each row, and `compact` takes rows out.
    """

    def __init__(self) -> None:
        self._layers: list[_Layer] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append to a layer, `[rows, kv heads, tokens, head_dim]`; returns all it holds."""
        if layer_idx == len(self._layers):
            self._layers.append(_Layer(key_states, value_states))
            return key_states, value_states
        return self._layers[layer_idx].append(key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens per row."""
        return self._layers[layer_idx].length if self._layers else 0

    def expand(self, rows: Tensor) -> None:
        """Make row i a copy of what is now row `rows[i]`."""
        for layer in self._layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]

    def compact(self, holes: Tensor, movers: Tensor, num_rows: int) -> None:
        """Keep `num_rows` rows: those beyond, `movers`, move into the `holes` before."""
        for layer in self._layers:
            layer.compact(holes, movers, num_rows)


class _Layer:
    """`keys` and `values` are `[rows, kv heads, room, head_dim]`; `length` tokens are in use."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.length = keys.shape[2]
        self.keys, self.values = keys, values

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        end = self.length + keys.shape[2]
        if end > self.keys.shape[2]:
            self.keys, self.values = _with_room(self.keys, end), _with_room(self.values, end)
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def compact(self, holes: Tensor, movers: Tensor, num_rows: int) -> None:
        for block in (self.keys, self.values):
            block[holes, :, : self.length] = block[movers, :, : self.length]
        self.keys, self.values = self.keys[:num_rows], self.values[:num_rows]


def _with_room(block: Tensor, needed: int) -> Tensor:
    """A copy with room for the tokens that are needed, and half as many again."""
    rows, heads, length, head_dim = block.shape
    grown = block.new_empty(rows, heads, needed + needed // 2 + 32, head_dim)
    grown[:, :, :length] = block
    return grown
