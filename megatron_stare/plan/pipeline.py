"""How long a pipeline takes over micro-batches of unequal cost."""

from __future__ import annotations

from collections.abc import Sequence


def pipeline_seconds(
    forward: Sequence[Sequence[float]], backward: Sequence[Sequence[float]] | None = None
) -> float:
    """Seconds of the schedule "one forward, one backward"; forward passes alone without `backward`.

    A stage takes micro-batches in order: as many forward passes as there are stages behind it, then
    one of each in turn, then the backward passes that are left. A forward pass waits for that of
    the stage before, a backward pass for that of the stage behind.

    Args:
        forward, backward: seconds by micro-batch and stage.
    """
    num_micro_batches, num_stages = len(forward), len(forward[0]) if forward else 0
    orders = [_order(stage, num_stages, num_micro_batches, backward) for stage in range(num_stages)]
    ends: dict[tuple[str, int, int], float] = {}
    free = [0.0] * num_stages
    places = [0] * num_stages
    left = sum(len(order) for order in orders)
    while left:
        for stage, order in enumerate(orders):
            while places[stage] < len(order):
                kind, index = order[places[stage]]
                ready = _ready(kind, index, stage, num_stages, ends)
                if ready is None:
                    break
                seconds = (forward if kind == "forward" else backward or forward)[index][stage]
                free[stage] = max(free[stage], ready) + seconds
                ends[kind, index, stage] = free[stage]
                places[stage] += 1
                left -= 1
    return max(free, default=0.0)


def _order(
    stage: int, num_stages: int, count: int, backward: Sequence[Sequence[float]] | None
) -> list[tuple[str, int]]:
    if backward is None:
        return [("forward", index) for index in range(count)]
    ahead = min(num_stages - 1 - stage, count)
    order = [("forward", index) for index in range(ahead)]
    for index in range(count - ahead):
        order += [("forward", ahead + index), ("backward", index)]
    return order + [("backward", index) for index in range(count - ahead, count)]


def _ready(
    kind: str, index: int, stage: int, num_stages: int, ends: dict[tuple[str, int, int], float]
) -> float | None:
    """When what it waits for has ended; None while that is not known."""
    if kind == "forward":
        return 0.0 if stage == 0 else ends.get(("forward", index, stage - 1))
    if stage == num_stages - 1:
        return ends.get(("forward", index, stage))
    return ends.get(("backward", index, stage + 1))
