"""A run of two steps whose dumps hold every kind of sample, as a run writes them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from megatron_stare.data.pieces import Pieces
from megatron_stare.rollout.dump import dump_samples
from megatron_stare.rollout.token_dump import OF_POLICY, TokenColumns, dump_tokens
from megatron_stare.turns import Turn
from megatron_stare.types import Group, Reward
from tests.unit.observe.synthetic import write_metrics
from tests.unit.rollout.problems import TOKENIZER, make_group, make_prompt, make_sample

STEPS = (1, 4)
SUMS = replace(make_prompt("2+2=", answer="<b>4</b>"), source="sums")
GAMES = replace(make_prompt("find it"), source="games")
RIGHT = Group(
    SUMS,
    (make_sample(SUMS, 0, "so <i>4</i> ✓"), make_sample(SUMS, 1, "5", finish_reason="length")),
    (Reward(1.5, 1.0, None, 0.1, parts={"verdict": 1.0, "format": 0.5}), Reward(0, 0, None, 0.1)),
)
_TEXTS = ("look", "[a box]", "open")
_ENDS = (0, 4, 11, 16)
EPISODE = make_sample(
    GAMES,
    0,
    "".join(_TEXTS),
    loss_mask=(True,) * 4 + (False,) * 7 + (True,) * 5,
    logprobs=(-0.5,) * 4 + (math.nan,) * 7 + (-0.5,) * 5,
    turns=tuple(
        Turn(_ENDS[i], _ENDS[i + 1], kind, text, taken_as)
        for i, (kind, text, taken_as) in enumerate(
            zip(("model", "observation", "model"), _TEXTS, ("call", "", "answer"), strict=True)
        )
    ),
)
LOST = Reward(0.0, 0.0, "the verifier died", 0.1, is_judged=False)
PLAYED = Group(
    GAMES,
    (EPISODE, replace(EPISODE, index=1), make_sample(GAMES, 2, "?")),
    (Reward(1.0, 1.0, None, 0.1), Reward(0.0, 0.0, None, 0.1), LOST),
)
DROPPED = make_group(replace(make_prompt("3+3="), source="sums"), [0, 0])


def write_dumped_run(folder: Path) -> Path:
    """The folder of such a run; in its second step, no tokens were dumped."""
    write_metrics(folder, {step: {"reward/mean": 0.5} for step in STEPS})
    groups = [RIGHT, PLAYED]
    for step in STEPS:
        path = folder / "samples" / f"step_{step:06d}.jsonl"
        reasons = {DROPPED.prompt.uid: "filter mixed"}
        dump_samples(path, groups, [1.0, -1.0, 0.5, -0.5], [DROPPED], reasons)
    path = folder / "samples" / f"step_{STEPS[0]:06d}.parquet"
    dump_tokens(path, STEPS[0], groups, columns(), Pieces(TOKENIZER))
    return folder


def columns() -> TokenColumns:
    """Surprisals 0, 0.1, 0.2, ... over the batch; the third token is in L+, and clipped above."""
    count = sum(len(s.token_ids) for g in (RIGHT, PLAYED) for s in g.judged.samples)
    third = torch.arange(count) == 2
    numbers = {name: torch.ones(count) for name in OF_POLICY}
    numbers |= {"logprob": -torch.arange(count) / 10, "weight": 1.0 + 0.1 * third}
    flags = {"set": {"L+": third, "L-": ~third & third}, "clip": {"clip_high": third}}
    return TokenColumns(2, numbers, torch.ones(count).bool(), flags)
