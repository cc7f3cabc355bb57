"""Which tokens end a response: what tokenizer, config.json and generation_config.json say."""

import json

import pytest

from megatron_stare.errors import UserError
from megatron_stare.rollout.stop_tokens import (
    describe_stop_tokens,
    stop_token_ids,
    stop_token_sources,
)
from tests.models import EOS_ID, VOCAB_SIZE, make_tokenizer

SAID = [
    (None, (EOS_ID,)),
    ({}, (EOS_ID,)),
    ({"eos_token_id": None}, (EOS_ID,)),
    ({"eos_token_id": []}, (EOS_ID,)),
    ({"eos_token_id": EOS_ID}, (EOS_ID,)),
    ({"eos_token_id": 3}, (3, EOS_ID)),
    ({"eos_token_id": [EOS_ID, 258]}, (EOS_ID, 258)),
    ({"eos_token_id": 0}, (0, EOS_ID)),
]


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
@pytest.mark.parametrize(("content", "expected"), SAID)
def test_each_source_counts(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / name).write_text(json.dumps(content))
    assert stop_token_ids(tmp_path, make_tokenizer()) == expected


def test_all_sources_count_together_and_are_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [7, EOS_ID]}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 65]}))
    tokenizer = make_tokenizer()
    sources = stop_token_sources(tmp_path, tokenizer, turn_ends=(258,))
    assert sources == {
        7: ["config.json", "generation_config.json"],
        65: ["generation_config.json"],
        EOS_ID: ["tokenizer", "config.json"],
        258: ["chat template"],
    }
    line = describe_stop_tokens(sources, tokenizer)
    assert line.startswith("responses end with 7 ")
    assert line.endswith(
        "256 <|endoftext|> (tokenizer, config.json), 258 <|im_end|> (chat template)"
    )


@pytest.mark.parametrize(
    "value",
    ["x", "258", -1, [-1], True, [EOS_ID, False], 1.0, [[EOS_ID]], [None], {}, 999_999, VOCAB_SIZE],
)
@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_what_is_no_token_id_is_refused_with_file_value_and_range(tmp_path, name, value):
    (tmp_path / name).write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(UserError) as error:
        stop_token_ids(tmp_path, make_tokenizer())
    assert f"{name}: eos_token_id={value!r}" in str(error.value)
    assert f"from 0 to {VOCAB_SIZE - 1}" in str(error.value)


def test_a_model_may_have_more_tokens_than_its_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 300, "eos_token_id": 299}))
    assert stop_token_ids(tmp_path, make_tokenizer()) == (EOS_ID, 299)
    sources = stop_token_sources(tmp_path, make_tokenizer())
    assert "299 no text (config.json)" in describe_stop_tokens(sources, make_tokenizer())


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff{}", b"[" * 100_000])
@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_a_malformed_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"/{name}: .*expected a model's config"):
        stop_token_ids(tmp_path, make_tokenizer())


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no eos_token"):
        stop_token_ids(tmp_path, make_tokenizer(eos=False))
