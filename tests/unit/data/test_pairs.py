"""Pairs of responses: the batch that they make, and the rows that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_stare.config.data import PairDataConfig
from megatron_stare.data.examples import PairSet
from megatron_stare.errors import UserError
from tests.models import EOS_ID, make_tokenizer

PAIRS = [{"prompt": f"{a}+1=", "chosen": str(a + 1), "rejected": f"it is {a}"} for a in range(8)]


def make_set(folder: Path, rows: list[Any], **settings: Any) -> PairSet:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return PairSet(PairDataConfig(path=path, **settings), make_tokenizer(), seed=1)


def texts(pairs: PairSet) -> list[str]:
    batch = pairs.all()
    return [make_tokenizer().decode(ids) for ids in batch.token_ids.split(batch.lengths.tolist())]


def test_a_pair_is_a_group_of_two_the_better_one_first(tmp_path):
    pairs = make_set(tmp_path, PAIRS[:2], template="Q {prompt}")
    batch = pairs.all()
    end = "<|endoftext|>"
    assert texts(pairs) == [
        f"Q {a}+1={text}{end}" for a in (0, 1) for text in (a + 1, f"it is {a}")
    ]
    assert batch.group_ids.tolist() == [0, 0, 1, 1]
    assert batch.rewards.tolist() == batch.verdicts.tolist() == [1, 0, 1, 0]
    assert batch.response_lengths.tolist() == [2, 8, 2, 8]
    assert batch.loss_mask.all()
    assert batch.rollout_logprobs.isnan().all(), "no engine has sampled them"
    assert (batch.token_ids[batch.lengths.cumsum(0) - 1] == EOS_ID).all()


def test_drawing_is_seeded_and_goes_on_exactly(tmp_path):
    pairs = make_set(tmp_path, PAIRS)
    pairs.draw(5)
    resumed = make_set(tmp_path, PAIRS)
    resumed.load_state_dict(json.loads(json.dumps(pairs.state_dict())))
    assert torch.equal(resumed.draw(7).token_ids, pairs.draw(7).token_ids)
    with pytest.raises(UserError, match="rows was 8, is 7"):
        make_set(tmp_path, PAIRS[1:]).load_state_dict(pairs.state_dict())


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_responses_may_be_messages_that_repeat_the_prompt(tmp_path):
    asked, better, worse = said("user", "1+1="), said("assistant", "2"), said("assistant", "3")
    for prompt in ("1+1=", [asked]):
        for before in ([], [asked]):
            row = {"prompt": prompt, "chosen": [*before, better], "rejected": [*before, worse]}
            found = texts(make_set(tmp_path, [row], template="chat"))
            assert [text.partition("assistant\n")[2] for text in found] == [
                "2<|endoftext|>",
                "3<|endoftext|>",
            ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "1", "chosen": "2"}, "no field 'rejected'"),
        ({"prompt": "1", "chosen": None, "rejected": "3"}, "field 'chosen' is null"),
        ({"prompt": "1", "chosen": " ", "rejected": "3"}, "field 'chosen' is empty"),
        ({"prompt": "1", "chosen": "2", "rejected": "2"}, "'chosen' and 'rejected' are the same"),
        ({"prompt": "1", "chosen": {}, "rejected": "2"}, "field 'chosen' is a dict, expected text"),
        ({"prompt": "1", "chosen": "2", "rejected": "3" * 40}, "over 30 tokens"),
        (
            {"prompt": "1", "chosen": [said("user", "2")], "rejected": "3"},
            "field 'chosen' holds no messages that end with the assistant's",
        ),
        (
            {"prompt": "1", "chosen": [said("user", "x"), said("assistant", "2")], "rejected": "3"},
            "field 'chosen' answers something else than 'prompt' asks",
        ),
        ("{", "malformed JSON"),
    ],
)
def test_a_row_that_is_no_pair_is_named_with_its_line_and_key(tmp_path, row, reason):
    pairs = make_set(tmp_path, [PAIRS[0], row], max_tokens=30)
    assert len(pairs) == 1
    assert "left out: 1 " in str(pairs.report)
    assert f"{reason} (pairs.jsonl:2)" in str(pairs.report)
    with pytest.raises(UserError, match=r"pairs\.jsonl: 0 of 1 rows used; left out: 1 .*jsonl:1"):
        make_set(tmp_path, [row], max_tokens=30)


def test_fields_have_to_differ(tmp_path):
    with pytest.raises(ValueError, match="rejected_field='chosen' is chosen_field too"):
        make_set(tmp_path, PAIRS, rejected_field="chosen")
    with pytest.raises(ValueError, match="chosen_field='prompt' is prompt_field too"):
        make_set(tmp_path, PAIRS, chosen_field="prompt")
