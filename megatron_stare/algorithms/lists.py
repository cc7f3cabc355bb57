"""Samples as plain lists, and the batch that they make: see `offline`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from megatron_stare.turns import numbered
from megatron_stare.types import RolloutBatch

Samples = Sequence[Mapping[str, Any]]

PER_TOKEN = (
    *("mask", "logprobs", "entropies", "rollout_logprobs", "reference_logprobs"),
    *("current_logprobs", "current_entropies", "cut_values", "cut_nodes", "turns"),
    "min_p_logprobs",
)


def batch_of(samples: Samples) -> RolloutBatch:
    """Every token of a response is token 0; a prompt is one token, which tells it from others.

    Raises:
        ValueError: there is no sample, or lists differ in length.
    """
    if not samples:
        raise ValueError("samples: expected at least one, found none")
    lengths = torch.tensor([num_tokens(sample) for sample in samples])
    masked = [{"mask": [1.0] * num_tokens(sample)} | dict(sample) for sample in samples]
    mask, rollouts = column(masked, "mask"), column(samples, "rollout_logprobs")
    assert mask is not None
    groups = [sample.get("group", place) for place, sample in enumerate(samples)]
    prompts = [sample.get("prompt", group) for sample, group in zip(samples, groups, strict=True)]
    token_ids = [
        [_token_of(prompt), *[0] * length]
        for prompt, length in zip(prompts, lengths.tolist(), strict=True)
    ]
    verdicts = [float(s.get("verdict", float(s.get("reward", 0.0)) > 0)) for s in samples]
    return RolloutBatch(
        token_ids=torch.tensor([token for row in token_ids for token in row]),
        prompt_lengths=torch.ones_like(lengths),
        response_lengths=lengths,
        loss_mask=mask > 0,
        rollout_logprobs=torch.zeros(len(mask)).double() if rollouts is None else rollouts,
        rewards=torch.tensor([float(s.get("reward", 0.0)) for s in samples], dtype=torch.float64),
        verdicts=torch.tensor(verdicts, dtype=torch.float64),
        demonstrated=torch.tensor([bool(s.get("demonstrated", s.get("guide"))) for s in samples]),
        guiding=torch.tensor([bool(s.get("guide")) for s in samples]),
        truncated=torch.tensor([bool(s.get("truncated", False)) for s in samples]),
        group_ids=numbered(groups),
        **_turn_columns(samples),
    )


def _turn_columns(samples: Samples) -> dict[str, Tensor]:
    """Of each token, `[R]`; what not every sample says is left out, but for numbers of turns."""
    numbers = [_turn_numbers(sample) for sample in samples]
    columns: dict[str, Tensor] = {}
    if any(sample.get("turns") is not None for sample in samples):
        columns["turns"] = torch.tensor([number for row in numbers for number in row])
    for name in ("turn_rewards", "failed_calls", "anchors", "roles"):
        if all(sample.get(name) is not None for sample in samples):
            rows = [_of_tokens(name, *pair) for pair in zip(samples, numbers, strict=True)]
            said = [value for row in rows for value in row]
            is_number = name in ("turn_rewards", "failed_calls")
            columns[name] = flat([said]) if is_number else numbered(said)
    return columns


def _turn_numbers(sample: Mapping[str, Any]) -> list[int]:
    if sample.get("turns") is None:
        return [0] * num_tokens(sample)
    numbers = [*sample["turns"]]
    if numbers != sorted(numbers) or {*numbers} != {*range(len({*numbers}))}:
        raise ValueError(f"turns: {numbers}, expected numbers that go up from 0, one by one")
    return numbers


def of_turns(name: str, samples: Samples, keys: Sequence[str]) -> dict[str, Tensor]:
    """What samples say of their turns under a name, a mapping each: by key, float64 `[N]`.

    Raises:
        ValueError: it is said of another number of turns, or has other keys.
    """
    said = []
    for sample in samples:
        numbers = _turn_numbers(sample)
        rows = _of_tokens(name, sample, numbers)
        said += [rows[numbers.index(number)] for number in sorted({*numbers})]
    for row in said:
        if {*row} != {*keys}:
            raise ValueError(f"{name}: a turn has {[*row]}, expected {[*keys]}")
    return {key: flat([[row[key] for row in said]]) for key in keys}


def _of_tokens(name: str, sample: Mapping[str, Any], numbers: Sequence[int]) -> list[Any]:
    """What a sample says of each of its turns, of their tokens."""
    said, count = sample[name], len({*numbers})
    if len(said) != count:
        raise ValueError(f"{name}: {len(said)} values for the {count} turns of a sample")
    return [said[number] for number in numbers]


def _token_of(prompt: Hashable) -> int:
    """The same in every call."""
    return int.from_bytes(hashlib.sha256(repr(prompt).encode()).digest()[:7])


def num_tokens(sample: Mapping[str, Any]) -> int:
    """Those of its response.

    Raises:
        ValueError: it says nothing of tokens, or not of as many everywhere.
    """
    lengths = {name: len(sample[name]) for name in PER_TOKEN if sample.get(name) is not None}
    if len(set(lengths.values())) != 1:
        raise ValueError(
            f"a sample has {lengths or 'nothing per token'}, expected lists of one length"
        )
    return next(iter(lengths.values()))


def per_token(name: str, rows: Sequence[Any], samples: Samples) -> Tensor:
    """What is said of each sample, or of each of its tokens: `[R]`.

    Raises:
        ValueError: it is said of other samples, or of another number of tokens.
    """
    if len(rows) != len(samples):
        raise ValueError(f"{name}: {len(rows)} rows for {len(samples)} samples")
    parts = [torch.as_tensor(row, dtype=torch.float64) for row in rows]
    for place, (part, sample) in enumerate(zip(parts, samples, strict=True)):
        if part.dim() and len(part) != num_tokens(sample):
            raise ValueError(
                f"{name}: {len(part)} values for the {num_tokens(sample)} tokens of sample {place}"
            )
    return torch.cat([part.expand(num_tokens(s)) for part, s in zip(parts, samples, strict=True)])


def column(samples: Samples, name: str) -> Tensor | None:
    """What every sample says of its tokens, `[R]`; None where one says nothing."""
    if any(sample.get(name) is None for sample in samples):
        return None
    return flat([sample[name] for sample in samples])


def flat(rows: Sequence[Sequence[float | None]]) -> Tensor:
    """NaN where there is None."""
    values = [math.nan if value is None else float(value) for row in rows for value in row]
    return torch.tensor(values, dtype=torch.float64)
