"""Which tokens end a response: the tokenizer's, and generation_config.json's."""

import json

import pytest

from megatron_stare.errors import UserError
from megatron_stare.rollout.stop_tokens import stop_token_ids
from tests.models import EOS_ID, make_tokenizer


@pytest.mark.parametrize(
    ("generation_config", "expected"),
    [
        (None, (EOS_ID,)),
        ({}, (EOS_ID,)),
        ({"eos_token_id": None}, (EOS_ID,)),
        ({"eos_token_id": EOS_ID}, (EOS_ID,)),
        ({"eos_token_id": 3}, (3, EOS_ID)),
        ({"eos_token_id": [EOS_ID, 258]}, (EOS_ID, 258)),
    ],
)
def test_both_sources_count(tmp_path, generation_config, expected):
    if generation_config is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation_config))
    assert stop_token_ids(tmp_path, make_tokenizer()) == expected


@pytest.mark.parametrize("content", ["{", "[1]", '{"eos_token_id": "x"}'])
def test_a_malformed_generation_config_is_named(tmp_path, content):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(UserError, match=r"generation_config\.json"):
        stop_token_ids(tmp_path, make_tokenizer())


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no eos_token"):
        stop_token_ids(tmp_path, make_tokenizer(eos=False))
