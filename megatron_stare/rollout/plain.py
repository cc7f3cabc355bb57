"""Groups as plain values and back, for checkpoints."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from megatron_stare.rollout.groups import GrowingGroup
from megatron_stare.turns import turns_from_plain, turns_to_plain
from megatron_stare.types import Group, Prompt, Reward, Sample


def group_to_plain(group: Group | GrowingGroup) -> dict[str, Any]:
    """A whole group has rewards, a growing one a size."""
    if isinstance(group, Group):
        whole = {"rewards": [_plain(reward) for reward in group.rewards]}
        samples = group.samples
    else:
        whole = {"size": group.size}
        samples = group.samples.values()
    plain_samples = [_plain(sample) for sample in samples]
    for sample in plain_samples:
        del sample["prompt"]
        sample |= turns_to_plain(sample.pop("turns"))
    return {"prompt": _plain(group.prompt), "samples": plain_samples, **whole}


def group_from_plain(plain: dict[str, Any]) -> Group | GrowingGroup:
    """The group that `group_to_plain` was given."""
    prompt = Prompt(**plain["prompt"])
    samples = [
        Sample(prompt=prompt, **sample | turns_from_plain(sample)) for sample in plain["samples"]
    ]
    if "size" in plain:
        return GrowingGroup(prompt, plain["size"], {sample.index: sample for sample in samples})
    return Group(prompt, tuple(samples), tuple(Reward(**reward) for reward in plain["rewards"]))


def _plain(value: Prompt | Sample | Reward) -> dict[str, Any]:
    # Not `asdict`, which would copy every token.
    return {field.name: getattr(value, field.name) for field in fields(value)}
