"""transformers 5 keeps the experts of a layer in two parameters; its files hold them one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

_GATE_UP, _DOWN = "experts.gate_up_proj", "experts.down_proj"


def named_as_in_files(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformers model's parameters, or tensors like them, under the names of its files.

    Fused experts, `[experts, 2 * ffn, hidden]` and `[experts, hidden, ffn]`, become views of one
    expert's gate, up and down projection each.
    """
    return dict(pair for name, tensor in params.items() for pair in _unfused(name, tensor))


def _unfused(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    prefix = name.rpartition(".")[0]
    if name.endswith(_GATE_UP):
        for expert, gate_up in enumerate(tensor):
            gate, up = gate_up.chunk(2)
            yield f"{prefix}.{expert}.gate_proj.weight", gate
            yield f"{prefix}.{expert}.up_proj.weight", up
    elif name.endswith(_DOWN):
        for expert, down in enumerate(tensor):
            yield f"{prefix}.{expert}.down_proj.weight", down
    else:
        yield name, tensor
