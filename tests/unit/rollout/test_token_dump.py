"""What was decided of each token, in a file that any reader of Parquet opens."""

import math
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

from megatron_stare.data.pieces import Pieces
from megatron_stare.rollout.token_dump import OF_POLICY, TokenColumns, dump_tokens
from megatron_stare.turns import Turn
from megatron_stare.types import Group, Reward
from tests.disks import full_disk
from tests.unit.rollout.problems import TOKENIZER, make_group, make_prompt, make_sample

PROMPT = make_prompt("2+2=")
EPISODE = make_sample(
    PROMPT,
    1,
    "a b c",
    loss_mask=(True, True, False, False, True, True),
    logprobs=(-0.5, -0.25, math.nan, math.nan, -1.0, -2.0),
    turns=(Turn(0, 2, "model"), Turn(2, 4, "observation"), Turn(4, 6, "model")),
)
UNJUDGED = replace(make_sample(PROMPT, 0, "lost"))
GROUPS = [
    Group(
        PROMPT,
        (UNJUDGED, EPISODE),
        (Reward(0.0, 0.0, "lost", 0.0, is_judged=False), Reward(1.0, 1.0, None, 0.0)),
    ),
    make_group(make_prompt("other"), [1, 0]),
]
JUDGED = [sample for group in GROUPS for sample in group.judged.samples]
R = sum(len(sample.token_ids) for sample in JUDGED)


def columns() -> TokenColumns:
    numbers = {name: i + torch.arange(R) / R for i, name in enumerate(OF_POLICY)}
    flags = {
        "set": {"L+": torch.arange(R) % 3 == 0, "L-": torch.arange(R) % 6 == 3},
        "clip": {"clip_low": torch.zeros(R).bool()},
    }
    return TokenColumns(len(GROUPS), numbers, torch.arange(R) % 2 == 0, flags)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "samples" / "step_000007.parquet"
    dump_tokens(path, 7, GROUPS, columns(), Pieces(TOKENIZER))
    return pq.read_table(path).to_pylist()


def test_a_row_is_a_token_of_a_judged_sample(rows):
    keys = ("step", "group", "index", "position", "token_id")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        (7, group, sample.index, position, token)
        for group, whole in enumerate(GROUPS)
        for sample in whole.judged.samples
        for position, token in enumerate(sample.token_ids)
    ]
    assert "".join(row["text"] for row in rows[:6]) == "a b c<|endoftext|>"


def test_numbers_are_those_of_the_step_and_null_where_the_policy_chose_nothing(rows):
    given = columns()
    for name in OF_POLICY:
        expected = [
            v if row["mask"] else None for v, row in zip(given.numbers[name], rows, strict=True)
        ]
        assert [row[name] for row in rows] == expected
    assert [row["mask"] for row in rows[:6]] == list(EPISODE.loss_mask)
    assert [row["counted"] for row in rows] == given.counted.tolist()
    assert [row["rollout_logprob"] for row in rows[:6]] == [-0.5, -0.25, None, None, -1.0, -2.0]


def test_turns_sets_and_bounds_are_named(rows):
    assert [row["turn"] for row in rows[:6]] == [0, 0, 0, 0, 1, 1]
    assert [row["set"] for row in rows[:7]] == ["L+", "", "", "L+,L-", "", "", "L+"]
    assert {row["clip"] for row in rows} == {""}


def test_a_group_can_be_read_alone(tmp_path):
    dump_tokens(tmp_path / "samples/a.parquet", 1, GROUPS, columns(), Pieces(TOKENIZER))
    file = pq.ParquetFile(tmp_path / "samples/a.parquet")
    assert {*file.read_row_group(1).column("group").to_pylist()} == {1}


def test_on_a_full_disk_what_was_there_stays(tmp_path):
    path = tmp_path / "samples/step_000007.parquet"
    dump_tokens(path, 7, GROUPS, columns(), Pieces(TOKENIZER))
    before = path.read_bytes()
    with full_disk(1000), pytest.raises(OSError, match="File too large"):
        dump_tokens(path, 7, GROUPS[:1], columns(), Pieces(TOKENIZER))
    assert path.read_bytes() == before
    assert [*path.parent.iterdir()] == [path]
