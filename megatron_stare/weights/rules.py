"""What name tables are made of: a `Rule` is a line of a `Table`, an `Entry` that line in one layer.

Names carry global layer and expert indices here and wherever weights move. Megatron numbers the
layers of each model chunk and the experts of each rank from 0; `global_names` adds the offsets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from megatron_stare.model_shape import ModelShape
from megatron_stare.weights.layouts import Layout, Source

MEGATRON_LAYER = "decoder.layers.{}."
HF_LAYER = "model.layers.{}."
MEGATRON_EXPERT = "mlp.experts.local_experts.{}."
HF_EXPERT = "mlp.experts.{}."

DIMENSIONS: dict[str, Callable[[ModelShape], int]] = {
    "vocab": lambda shape: shape.vocab_size,
    "hidden": lambda shape: shape.hidden_size,
    "heads": lambda shape: shape.num_heads * shape.head_dim,
    "kv": lambda shape: shape.num_kv_heads * shape.head_dim,
    "head": lambda shape: shape.head_dim,
    "ffn": lambda shape: shape.ffn_size,
    "experts": lambda shape: shape.num_experts,
}
"""The words in which tables write the dimensions of Hugging Face tensors."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A Megatron parameter and the tensors it is made of; without a layer's or expert's prefix."""

    megatron: str
    hf: dict[str, str]
    """Tensor names, each with its dimensions, in the layout's order."""
    layout: Layout
    when: Callable[[ModelShape], bool] = lambda shape: True
    """Which models of the family have it."""
    is_copy: bool = False
    """A second holder of tensors that another rule exports; absent where they share a stage."""


@dataclass(frozen=True, slots=True)
class Table:
    """The rules of a family: on the first pipeline stage, in every layer, on the last stage, and
    in every expert of every layer."""

    first: tuple[Rule, ...]
    layers: tuple[Rule, ...]
    last: tuple[Rule, ...]
    experts: tuple[Rule, ...] = ()

    def entries(self, shape: ModelShape) -> Iterator[Entry]:
        """The table spelled out for a model, in the order of its forward pass."""
        yield from _spell_out(self.first, shape, 0, "", "")
        for layer in range(shape.num_layers):
            prefixes = MEGATRON_LAYER.format(layer), HF_LAYER.format(layer)
            yield from _spell_out(self.layers, shape, layer, *prefixes)
            yield from self._expert_entries(shape, layer, *prefixes)
        yield from _spell_out(self.last, shape, shape.num_layers - 1, "", "")

    def _expert_entries(
        self, shape: ModelShape, layer: int, megatron_prefix: str, hf_prefix: str
    ) -> Iterator[Entry]:
        for expert in range(shape.num_experts):
            megatron = megatron_prefix + MEGATRON_EXPERT.format(expert)
            hf = hf_prefix + HF_EXPERT.format(expert)
            yield from _spell_out(self.experts, shape, layer, megatron, hf, expert)


@dataclass(frozen=True, slots=True)
class Entry:
    """One Megatron parameter of a model and the tensors it is made of."""

    megatron: str
    hf: dict[str, tuple[int, ...]]
    """Full tensor shapes by name."""
    layout: Layout
    is_copy: bool
    layer: int
    """The layer on whose pipeline stage the parameter lives."""
    expert: int | None
    """The expert whose parameter it is, which lives on one expert-parallel rank; None on all."""
    shape: ModelShape

    def shard(self, sources: Mapping[str, Source], tp_rank: int, tp_size: int) -> Tensor:
        """The parameter of one tensor-parallel rank; may be a view of a source."""
        return self.layout.shard([sources[name] for name in self.hf], tp_rank, tp_size, self.shape)

    def merge(self, shards: Sequence[Tensor]) -> dict[str, Tensor]:
        """The full tensors by name, contiguous, from the parameters of all ranks in order."""
        return dict(zip(self.hf, self.layout.merge(shards, self.shape), strict=True))

    def shard_shape(self, tp_size: int) -> tuple[int, ...]:
        """The shape of the parameter, the same on every rank."""
        return self.layout.shard_shape(list(self.hf.values()), tp_size)


def _spell_out(
    rules: Sequence[Rule],
    shape: ModelShape,
    layer: int,
    megatron_prefix: str,
    hf_prefix: str,
    expert: int | None = None,
) -> Iterator[Entry]:
    for rule in rules:
        if rule.when(shape):
            hf = {
                hf_prefix + name: tuple(DIMENSIONS[word](shape) for word in words.split())
                for name, words in rule.hf.items()
            }
            name = megatron_prefix + rule.megatron
            yield Entry(name, hf, rule.layout, rule.is_copy, layer, expert, shape)


def global_names[T](
    params: Mapping[str, T], layer_offset: int, expert_offset: int = 0
) -> dict[str, T]:
    """The parameters of a chunk, whose first layer and expert are the offsets, renamed."""
    return {
        _shifted(
            _shifted(name, MEGATRON_LAYER, layer_offset), MEGATRON_EXPERT, expert_offset
        ): param
        for name, param in params.items()
    }


def _shifted(name: str, template: str, offset: int) -> str:
    """A name with the number that it has in the template's place raised by `offset`."""
    before, after = template.split("{}")
    number = rf"(?<={re.escape(before)})\d+(?={re.escape(after)})"
    return re.sub(number, lambda match: str(int(match[0]) + offset), name, count=1)


def check_coverage(
    params: Mapping[str, Tensor], entries: Mapping[str, Entry], tp_size: int
) -> None:
    """Check that the parameters of a pipeline stage, by global names, are those of the table.

    Raises:
        ValueError: a parameter that no rule covers, one missing beside the others of its layer or
            expert, or one of another shape.
    """
    if unknown := sorted(params.keys() - entries.keys()):
        raise ValueError(f"no rule of the name table covers the parameters {unknown}")
    layers = {entries[name].layer for name in params}
    experts = {None, *(entries[name].expert for name in params)}
    here = [e for e in entries.values() if e.layer in layers and e.expert in experts]
    needed = {entry.megatron for entry in here if not entry.is_copy}
    if missing := sorted(needed - params.keys()):
        raise ValueError(f"the model lacks the parameters {missing} of the name table")
    for name, param in params.items():
        expected = entries[name].shard_shape(tp_size)
        if param.shape != expected:
            raise ValueError(f"{name} has shape {list(param.shape)}, expected {list(expected)}")
