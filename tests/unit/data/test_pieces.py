"""Pieces of tokens, joined, are the text that the tokens stand for."""

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from megatron_stare.data.pieces import Pieces
from megatron_stare.data.tokenizer import load_tokenizer
from tests.models import make_tokenizer
from tests.tokenizer_files import KINDS, write_folder

TEXTS = ("12+7=19", " a  b\n", "数学 ✓ é 🙂🙂", "x\ufffdy", "")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["bytes", "sentence pieces"])
def test_joined_they_are_the_text(kind, text, tmp_path):
    write_folder(tmp_path, KINDS[kind]())
    tokenizer = load_tokenizer(tmp_path)
    anchored = tokenizer.encode("a" + text, add_special_tokens=False)
    token_ids = anchored[len(tokenizer.encode("a", add_special_tokens=False)) :]
    pieces = Pieces(tokenizer).of(token_ids)
    assert len(pieces) == len(token_ids)
    assert "a" + "".join(pieces) == tokenizer.decode(anchored)


def test_a_character_of_several_tokens_is_the_piece_of_its_last():
    tokenizer = make_tokenizer()
    token_ids = tokenizer.encode("a✓b", add_special_tokens=False)
    assert Pieces(tokenizer).of(token_ids) == ["a", "", "", "✓", "b"]


def test_bytes_that_are_no_text_keep_nothing_waiting():
    tokenizer = make_tokenizer()
    half = tokenizer.encode("✓", add_special_tokens=False)[:2]
    pieces = Pieces(tokenizer).of([*half, *tokenizer.encode("b", add_special_tokens=False)])
    assert pieces[-1] == "b"
    assert len(Pieces(tokenizer).of(half * 9)) == 18


def test_a_vocabulary_of_whole_words_needs_no_letter():
    """Nor a token for what it does not know."""
    words = Tokenizer(WordLevel({"01": 0, "+": 1, "<eos>": 2}))
    words.add_special_tokens(["<eos>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
    assert Pieces(tokenizer).of([0, 1, 0, 2]) == ["01", "+", "01", "<eos>"]


def test_special_tokens_are_shown():
    tokenizer = make_tokenizer()
    assert Pieces(tokenizer).of([tokenizer.eos_token_id]) == [tokenizer.eos_token]
