"""Loading a folder's tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_stare.data.tokenizer import load_tokenizer
from megatron_stare.errors import UserError
from tests.models import EOS_ID, make_tokenizer


def test_a_saved_tokenizer_loads(tmp_path: Path):
    make_tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.eos_token_id == EOS_ID
    assert tokenizer("2+2=")["input_ids"] == make_tokenizer()("2+2=")["input_ids"]
    assert tokenizer.chat_template is not None


def test_a_folder_without_a_usable_tokenizer_is_one_clear_error(tmp_path: Path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(UserError, match=r"no tokenizer, expected one of tokenizer.json"):
        load_tokenizer(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model"')
    with pytest.raises(UserError, match="no usable tokenizer"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_an_end_of_sequence_is_refused(tmp_path: Path):
    make_tokenizer(eos=False).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no eos_token"):
        load_tokenizer(tmp_path)
