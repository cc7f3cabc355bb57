"""A stream of a network's tensors, checked as it passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor


def checked(
    tensors: Iterable[tuple[str, Tensor]], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Tensor]]:
    """The same tensors, each seen to be the network's before it is passed on.

    Raises:
        ValueError: a name or a shape is not the network's, a tensor comes twice, or one is missing
            at the end.
    """
    missing = dict(shapes)
    for name, tensor in tensors:
        if name not in shapes:
            raise ValueError(f"weight {name!r} is not a parameter, expected those of the network")
        if name not in missing:
            raise ValueError(f"weight {name!r} comes twice, expected once")
        if tuple(tensor.shape) != missing.pop(name):
            raise ValueError(
                f"weight {name!r} has shape {list(tensor.shape)}, expected {list(shapes[name])}"
            )
        yield name, tensor
    if missing:
        raise ValueError(f"weights {sorted(missing)} are missing, expected all of the network")
