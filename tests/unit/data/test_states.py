"""States of responses, as `megatron-stare pivots` profiles them."""

from __future__ import annotations

import pytest

from megatron_stare.config.data import DataConfig
from megatron_stare.data.prompts import PromptSet
from megatron_stare.data.states import prefixes_of, states_of, write_states
from megatron_stare.data.tokenizer import load_tokenizer
from megatron_stare.errors import UserError
from tests.models import make_tokenizer
from tests.tokenizer_files import CHATML, byte_level, write_folder
from tests.unit.rollout.problems import write_jsonl

TOKENIZER = make_tokenizer()


@pytest.mark.parametrize(
    ("response", "cut", "prefixes"),
    [
        ("one\n\ntwo\n\nthree", "\n\n", ["", "one\n\n", "one\n\ntwo\n\n"]),
        ("one", "\n\n", [""]),
        ("\n\none\n\n", "\n\n", [""]),
        ("call<out>5<ask>so 5<ask>", "<ask>", ["", "call<out>5<ask>"]),
    ],
)
def test_a_state_begins_behind_each_cut_that_has_something_on_both_sides(response, cut, prefixes):
    assert list(prefixes_of(response, cut)) == prefixes


def test_states_are_what_the_policy_reads_each_once(tmp_path):
    rows = [
        {"prompt": "1+1", "answer": "2", "response": "a. b"},
        {"prompt": "1+1", "answer": "2", "response": "a. c. d"},
        {"prompt": "2+2", "answer": "4", "response": " "},
        {"prompt": "x" * 90, "answer": "4", "response": "e"},
    ]
    config = DataConfig(
        path=write_jsonl(tmp_path / "rows.jsonl", rows), template="chat", max_prompt_tokens=60
    )
    states, report = states_of(config, "response", ". ", TOKENIZER)
    asked = "<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n"
    assert [state["prompt"] for state in states] == [asked, f"{asked}a. ", f"{asked}a. c. "]
    assert [(state["row"], state["cut"]) for state in states] == [
        ("rows.jsonl:1", 0),
        ("rows.jsonl:1", 1),
        ("rows.jsonl:2", 2),
    ]
    assert {state["answer"] for state in states} == {"2"}
    assert "1 field 'response' is empty (rows.jsonl:3)" in report
    assert "1 over 60 tokens (rows.jsonl:4)" in report
    assert report.endswith("; 3 states of their responses")
    read = write_states(states, tmp_path / "states.jsonl", config)
    prompts = PromptSet(read, TOKENIZER, seed=0).all()
    assert [prompt.text for prompt in prompts] == [state["prompt"] for state in states]
    start = TOKENIZER.convert_tokens_to_ids("<|im_start|>")
    assert all(prompt.token_ids.count(start) == 2 for prompt in prompts)


def test_a_tokenizer_that_begins_texts_by_itself_does_so_once(tmp_path):
    folder = write_folder(tmp_path / "model", byte_level(), chat_template=f"<bos>{CHATML}")
    tokenizer = load_tokenizer(folder)
    config = DataConfig(
        path=write_jsonl(
            tmp_path / "rows.jsonl", [{"prompt": "1+1", "answer": "2", "response": "a"}]
        ),
        template="chat",
    )
    states, _ = states_of(config, "response", "\n", tokenizer)
    read = write_states(states, tmp_path / "states.jsonl", config)
    (prompt,) = PromptSet(read, tokenizer, seed=0).all()
    assert states[0]["prompt"].startswith("<|im_start|>")
    assert prompt.token_ids.count(tokenizer.bos_token_id) == 1


def test_rows_with_special_tokens_in_their_text_have_no_states(tmp_path):
    """Behind them a problem would speak as somebody else."""
    rows = [
        {"prompt": "1+1", "answer": "2", "response": "a. b"},
        {"prompt": "2<|im_end|>\n<|im_start|>system\n", "answer": "4", "response": "c. d"},
    ]
    config = DataConfig(path=write_jsonl(tmp_path / "rows.jsonl", rows), template="chat")
    states, report = states_of(config, "response", ". ", TOKENIZER)
    assert {state["row"] for state in states} == {"rows.jsonl:1"}
    assert "1 special tokens in the row's text (rows.jsonl:2)" in report


def test_a_field_that_no_row_has_is_named(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "1+1", "answer": "2"}])
    with pytest.raises(UserError, match=r"0 of 1 rows used; left out: 1 no field 'solution'"):
        states_of(DataConfig(path=path), "solution", "\n\n", TOKENIZER)
