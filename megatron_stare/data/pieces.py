"""The piece of text that each token of a response stands for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from transformers import PreTrainedTokenizerFast

_UNFINISHED = "\ufffd"
"""What a part of a character decodes to."""


class Pieces:
    """Pieces of texts, remembered by token: joined they are the text, special tokens included.

    A character of several tokens is the piece of the last of them; the others have none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._anchor = _letter(tokenizer)
        """Before each token: a decoder may take the space from the first of a text."""
        self._start = len(tokenizer.decode(self._anchor)) if self._anchor else 0
        self._known: dict[int, str] = {}

    def of(self, token_ids: Sequence[int]) -> list[str]:
        """A piece a token."""
        pieces: list[str] = []
        for is_partial, run in groupby(token_ids, lambda token: _UNFINISHED in self._alone(token)):
            tokens = [*run]
            pieces += self._together(tokens) if is_partial else map(self._alone, tokens)
        return pieces

    def _alone(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = self._text([token])
        return self._known[token]

    def _together(self, run: Sequence[int]) -> Iterator[str]:
        """Of tokens that are parts of characters: each waits until its character is whole."""
        start = 0
        for end in range(1, len(run) + 1):
            text = self._text(run[start:end])
            # A character has four bytes at most: what is longer is none.
            is_whole = not text.endswith(_UNFINISHED) or end == len(run) or end - start == 4
            yield text if is_whole else ""
            start = end if is_whole else start

    def _text(self, token_ids: Sequence[int]) -> str:
        whole = self._tokenizer.decode([*self._anchor, *token_ids], skip_special_tokens=False)
        return str(whole)[self._start :]


def _letter(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """A token of plain text; none where a vocabulary of whole words has no letters."""
    try:
        return tokenizer.encode("a", add_special_tokens=False)[-1:]
    except Exception:  # tokenizers raises nothing narrower.
        return []
