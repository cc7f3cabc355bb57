"""MatchTIR's rewards of calls: how well they match those of a reference (arXiv 2601.10712).

    rewards = call_rewards(called, reference)           # of each call, to be averaged by turn
    samples[0]["turn_rewards"] = [mean(rewards[:2]), answer_f1(text, "42")]

Checked against the authors' code. They are for lists (`algorithms.offline`) and for who records
samples: no data of a run says what is to be called.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

ROUNDS = 1000
"""Of Sinkhorn's scaling, which has long settled by then."""

ToolCall = tuple[str, Mapping[str, Any]]
"""Its name and its arguments."""


def similarity(call: ToolCall, reference: ToolCall) -> float:
    """From 0, another tool, to 1, the same call.

    (1 + J + equal) / (2 + n): J the Jaccard index of the names of arguments, 1 where neither has
    any; equal the number of the reference's n arguments that are the call's. Case of tools' names
    does not matter.
    """
    (name, arguments), (wanted, expected) = call, reference
    if name.lower() != wanted.lower():
        return 0.0
    shared = len(arguments.keys() & expected.keys())
    either = len(arguments.keys() | expected.keys())
    equal = sum(key in arguments and arguments[key] == expected[key] for key in expected)
    return (1 + (shared / either if either else 1.0) + equal) / (2 + len(expected))


def call_rewards(
    calls: Sequence[ToolCall],
    references: Sequence[ToolCall],
    matching: Literal["pairs", "transport"] = "pairs",
) -> list[float]:
    """What each call earns, in order; nothing without references.

    Args:
        matching: `pairs` gives every reference to one call, the most similar pair first, and a call
            its pair's similarity or 0 (KM of the paper, which the code finds greedily); `transport`
            spreads both evenly over each other by entropic optimal transport of -similarity, with
            regularisation 0.1, and gives a call what goes from it times similarity (OT).
    """
    if not calls or not references:
        return [0.0] * len(calls)
    alike = torch.tensor(
        [[similarity(call, one) for one in references] for call in calls], dtype=torch.float64
    )
    return (_pairs if matching == "pairs" else _transport)(alike).tolist()


def _pairs(alike: Tensor) -> Tensor:
    """The greedy matching; of equal pairs the first call's, and then the first reference's."""
    rewards = torch.zeros(len(alike), dtype=torch.float64)
    left = alike.clone()
    while (best := left.max()) > 0:
        call, reference = divmod(int(left.flatten().argmax()), left.shape[1])
        rewards[call] = best
        left[call] = left[:, reference] = 0.0
    return rewards


def _transport(alike: Tensor, regularisation: float = 0.1) -> Tensor:
    calls, references = alike.shape
    kernel = (alike / regularisation).exp()
    columns = torch.ones(references, dtype=torch.float64)
    for _ in range(ROUNDS):
        rows = 1 / calls / (kernel @ columns)
        columns = 1 / references / (kernel.T @ rows)
    return (rows[:, None] * kernel * columns * alike).sum(1)


def answer_f1(answer: str, expected: str) -> float:
    """F1 of the sets of words, in lower case and without punctuation; 0 where they share none."""
    found, wanted = _words(answer), _words(expected)
    shared = len(found & wanted)
    return 2 * shared / (len(found) + len(wanted)) if shared else 0.0


def _words(text: str) -> set[str]:
    return {*re.sub(f"[{re.escape(string.punctuation)}]", " ", text.lower()).split()}
