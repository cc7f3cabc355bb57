"""Every sample of a step as a line of JSON. The replay engine reads such a file back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

from megatron_stare.system.folders import replacing_file
from megatron_stare.turns import turns_to_plain
from megatron_stare.types import Group, Reward, Sample


def dump_samples(
    path: Path,
    groups: Sequence[Group],
    advantages: Sequence[float],
    filtered: Sequence[Group] = (),
    reasons: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the batch, then what was left out of it; the file appears when it is complete, or not.

    Args:
        groups: the batch.
        advantages: of its samples that are judged, in its order, `[B]`.
        filtered: groups that were dropped; their samples have no advantage (null).
        reasons: why, by uid.

    A sample that is not judged has neither reward nor verdict nor advantage.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    path.parent.mkdir(exist_ok=True)  # A run's folder that is gone is not made again.
    with (
        replacing_file(path) as unfinished,
        # Half of a surrogate pair, which no encoding has, becomes an escape of JSON's.
        unfinished.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        for record in _records(groups, advantages, filtered):
            record["dropped"] = reasons.get(record["uid"])
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def _records(
    groups: Sequence[Group], advantages: Sequence[float], filtered: Sequence[Group]
) -> Iterator[dict[str, Any]]:
    trained_on = [
        (number, sample.index)
        for number, group in enumerate(groups)
        for sample in group.judged.samples
    ]
    advantage_of = dict(zip(trained_on, advantages, strict=True))
    for number, group in enumerate([*groups, *filtered]):
        for sample, reward in zip(group.samples, group.rewards, strict=True):
            advantage = advantage_of.get((number, sample.index))
            yield _record(number, sample, reward, advantage, is_kept=number < len(groups))


def _record(
    group: int, sample: Sample, reward: Reward, advantage: float | None, *, is_kept: bool
) -> dict[str, Any]:
    prompt = sample.prompt
    return {
        "uid": prompt.uid,
        "row": prompt.row,
        "source": prompt.source,
        "group": group,
        "index": sample.index,
        "kept": is_kept,
        "prompt": prompt.text,
        "answer": prompt.answer,
        "response": sample.text,
        "reward": reward.value if reward.is_judged else None,
        "correct": reward.correct if reward.is_judged else None,
        "parts": dict(reward.parts),
        "failure": reward.failure,
        "advantage": advantage,
        "finish_reason": sample.finish_reason,
        "origin": sample.origin,
        "propensity": prompt.propensity,
        "weight_versions": [
            [version, len(list(run))] for version, run in groupby(sample.weight_versions)
        ],
        "seconds": sample.seconds,
        "reward_seconds": reward.seconds,
        "token_ids": sample.token_ids,
        "logprobs": _known(sample.logprobs),
        "loss_mask": sample.loss_mask,
        **turns_to_plain(sample.turns),
        **({"temperatures": _known(sample.temperatures)} if sample.temperatures else {}),
    }


def _known(values: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]
