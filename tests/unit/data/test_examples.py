"""Worked examples: what is learned, and which rows are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from megatron_stare.config.data import SftDataConfig
from megatron_stare.data.examples import ExampleSet
from megatron_stare.errors import UserError
from tests.models import CHAT_TEMPLATE, EOS_ID, make_tokenizer

WORKED = [{"prompt": f"{a}+{a}=", "response": f" it is {2 * a}"} for a in range(10)]


def make_set(
    folder: Path,
    rows: list[dict],
    *,
    seed: int = 1,
    tokenizer: PreTrainedTokenizerFast | None = None,
    **settings: Any,
) -> ExampleSet:
    path = folder / "worked.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    config = SftDataConfig(path=path, **settings)
    return ExampleSet(config, tokenizer or make_tokenizer(), seed=seed)


def test_the_loss_is_on_the_response_and_its_end(tmp_path: Path):
    tokenizer = make_tokenizer()
    examples = make_set(tmp_path, [{"prompt": "1+1=", "response": "2"}], template="Q: {prompt}")
    batch = examples.draw(1)
    assert batch.prompt_lengths.tolist() == [7]
    assert batch.response_lengths.tolist() == [2]
    assert tokenizer.decode(batch.token_ids[:-1]) == "Q: 1+1=2"
    assert batch.token_ids[-1] == EOS_ID
    assert batch.loss_mask.tolist() == [True, True]


def test_a_batch_is_flat_with_an_example_after_the_other(tmp_path: Path):
    batch = make_set(tmp_path, WORKED).draw(4)
    assert len(batch) == 4
    assert len(batch.token_ids) == batch.lengths.sum()
    assert len(batch.loss_mask) == batch.num_loss_tokens.sum() == batch.response_lengths.sum()
    ends = batch.lengths.cumsum(0) - 1
    assert batch.token_ids[ends].tolist() == [EOS_ID] * 4


def test_the_chat_template_wraps_the_prompt_alone(tmp_path: Path):
    tokenizer = make_tokenizer()
    batch = make_set(tmp_path, [{"prompt": "1+1=", "response": "2"}], template="chat").draw(1)
    text = tokenizer.decode(batch.token_ids)
    assert text == "<|im_start|>user\n1+1=<|im_end|>\n<|im_start|>assistant\n2<|endoftext|>"
    assert batch.response_lengths.tolist() == [2]


def test_epochs_are_seeded_and_a_saved_cursor_goes_on_exactly(tmp_path: Path):
    examples = make_set(tmp_path, WORKED)
    first, second = (examples.draw(10).token_ids.tolist() for _ in range(2))
    assert first != second
    assert sorted(first) == sorted(second)

    state = json.loads(json.dumps(examples.state_dict()))
    resumed = make_set(tmp_path, WORKED)
    resumed.load_state_dict(state)
    assert resumed.draw(7).token_ids.tolist() == examples.draw(7).token_ids.tolist()
    with pytest.raises(UserError, match="rows was 10, is 9"):
        make_set(tmp_path, WORKED[:9]).load_state_dict(state)


def test_long_and_unusable_examples_are_counted_and_named(tmp_path: Path):
    rows = [*WORKED, {"prompt": "1+1="}, {"prompt": "1+1=", "response": "2" * 50}]
    examples = make_set(tmp_path, rows, max_tokens=20)
    assert len(examples) == 10
    assert examples.report.left_out == {
        "no field 'response'": ["worked.jsonl:11"],
        "over 20 tokens": ["worked.jsonl:12"],
    }


def test_a_set_filtered_away_and_a_tokenizer_without_an_end_are_clear_errors(tmp_path: Path):
    with pytest.raises(UserError, match=r"0 of 10 rows used; left out: 10 over 5 tokens"):
        make_set(tmp_path, WORKED, max_tokens=5)
    with pytest.raises(UserError, match="has no eos_token"):
        make_set(tmp_path, WORKED, tokenizer=make_tokenizer(eos=False))


PREFILLS = "assistant\n<think>\n{% endif"
THINKING = "<think>\nTwo.\n</think>\n\\boxed{2}"


@pytest.mark.parametrize("response", [THINKING, f"\n {THINKING}", THINKING.replace("k>\nT", "k>T")])
def test_what_the_template_has_begun_is_not_learned_again(tmp_path: Path, response: str):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace("assistant\n{% endif", PREFILLS)
    rows = [{"prompt": "1+1?", "response": response}, {"prompt": "2?", "response": "x</think>"}]
    examples = make_set(tmp_path, rows[:1], tokenizer=tokenizer, template="chat")
    text = str(tokenizer.decode(examples.draw(1).token_ids))
    assert text.endswith("assistant\n<think>\nTwo.\n</think>\n\\boxed{2}<|endoftext|>")
    assert text.count("<think>") == 1
    assert make_set(tmp_path, rows, tokenizer=tokenizer, template="chat").num_prefilled == 1


def test_a_template_that_begins_nothing_leaves_responses_as_they_are(tmp_path: Path):
    tokenizer = make_tokenizer()
    examples = make_set(
        tmp_path, [{"prompt": "1+1?", "response": THINKING}], tokenizer=tokenizer, template="chat"
    )
    text = str(tokenizer.decode(examples.draw(1).token_ids))
    assert text.endswith(f"assistant\n{THINKING}<|endoftext|>")
    assert examples.num_prefilled == 0


def test_special_tokens_in_a_question_are_text_and_in_a_response_themselves(tmp_path: Path):
    tokenizer = make_tokenizer()
    rows = [{"prompt": "a<|im_end|>", "response": "b<|im_end|>"}]
    batch = make_set(tmp_path, rows, tokenizer=tokenizer).draw(1)
    special = [token for token in batch.token_ids.tolist() if token >= 256]
    assert special == [EOS_ID + 2, EOS_ID]
    assert batch.response_lengths.tolist() == [3]
    parsed = make_set(tmp_path, rows, tokenizer=tokenizer, parse_special_tokens=True).draw(1)
    assert parsed.prompt_lengths.tolist() == [2]
