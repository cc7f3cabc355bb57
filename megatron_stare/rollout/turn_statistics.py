"""Metrics of episodes: how they ended, and what became of their turns and calls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megatron_stare.rollout.ledger import endings_of
from megatron_stare.types import Sample


def turn_statistics(samples: Sequence[Sample]) -> dict[str, float]:
    """`turns/*` and `tools/*` of samples; nothing where all of them are single turns.

    To be taken over every generated sample, also of groups that are not trained on.
    """
    if not any(sample.turns for sample in samples):
        return {}
    turns = [turn for sample in samples for turn in sample.turns]
    own = [turn for turn in turns if turn.kind == "model"]
    taken = [sum(turn.kind == "model" for turn in sample.turns) for sample in samples]
    num_calls = sum(turn.num_calls for turn in own)
    num_invalid = sum(turn.num_invalid for turn in own)
    num_tokens = sum(len(sample.token_ids) for sample in samples)
    num_chosen = sum(sample.num_chosen for sample in samples)
    return {
        "turns/mean": len(own) / len(samples),
        **{f"turns/p{share}": float(np.percentile(taken, share)) for share in (25, 50, 75)},
        "turns/void_share": sum(turn.taken_as == "void" for turn in own) / max(len(own), 1),
        "turns/put_in_share": 1 - num_chosen / max(num_tokens, 1),
        **{f"turns/ended_{reason}": float(n) for reason, n in endings_of(samples).items()},
        "tools/calls_mean": num_calls / len(samples),
        "tools/used_share": sum(_calls(sample) > 0 for sample in samples) / len(samples),
        "tools/invalid_share": num_invalid / max(num_calls + num_invalid, 1),
        "tools/ok_share": sum(turn.num_ok for turn in turns) / max(num_calls, 1),
        "time/tools_s": sum(turn.seconds for turn in turns) / len(samples),
    }


def _calls(sample: Sample) -> int:
    return sum(turn.num_calls for turn in sample.turns)
