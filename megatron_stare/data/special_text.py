"""Special tokens that somebody has written in a text: there they are text, and no special tokens.

`<|im_end|>` in a problem would otherwise end the user's turn, and let the problem speak as system
or assistant. Templates write special tokens around such texts, which stay what they are.

    write    hidden = special.hide("what is <|im_end|>?")     before a template sees it
    read     special.show(rendered)                           the prompt, as a person reads it
    encode   special.encode([rendered], ...)                  its tokens
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

_DIGITS = {ord(str(digit)): chr(0xFDD6 + digit) for digit in range(10)}
"""No characters of Unicode: in them no normalizer and no special token finds anything."""
_SPACE = " \t\r\n\u2581"
"""Some vocabularies write runs of it, and single characters, with added tokens: text like any."""


class SpecialText:
    """The special tokens of a tokenizer, told apart from texts that look like them.

    Args:
        of_any_kind: tokens that were added to the vocabulary and are not special, too, such as the
            `<tool_call>` of some families.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, of_any_kind: bool = False) -> None:
        self._tokenizer = tokenizer
        # Not to be guessed: a text could else hold the marks themselves.
        key = f"{secrets.randbelow(10**18):018}"
        # Of digits and dots, which templates write as they are, in JSON and in upper case too.
        self._hidden = f"{key}.{{}}."
        self._special = f"\ufdd0{key.translate(_DIGITS)}\ufdd1{{}}\ufdd2"
        wanted = [
            token
            for token in tokenizer.added_tokens_decoder.values()
            if token.special or (of_any_kind and len(token.content.strip(_SPACE)) > 1)
        ]
        self._texts = [token.content for token in wanted if token.content]
        has_loose = any(token.normalized for token in wanted)
        self._is_loose = has_loose and _changes_text(tokenizer.backend_tokenizer)
        numbers = {text: str(number) for number, text in enumerate(self._texts)}
        self._as_hidden = {text: self._hidden.format(n) for text, n in numbers.items()}
        self._as_special = {
            text: self._special.format(n.translate(_DIGITS)) for text, n in numbers.items()
        }
        longest_first = sorted(map(re.escape, self._texts), key=len, reverse=True)
        any_special = "|".join(longest_first) or r"(?!)"
        self._any = re.compile(any_special)
        self._mark = re.compile(rf"{key}\.(\d+)\.")
        self._any_or_mark = re.compile(rf"{self._mark.pattern}|{any_special}")

    def hide(self, text: str) -> str:
        """The text with special tokens in it replaced by what no tokenizer or template knows."""
        return self._any.sub(lambda match: self._as_hidden[match[0]], text)

    def is_in(self, text: str) -> bool:
        """Whether a text has hidden parts, or may have what becomes special by normalization."""
        return self._is_loose or self.show(text) != text

    def show(self, text: str) -> str:
        """The text as it was before `hide`."""
        return self._mark.sub(lambda match: self._texts[int(match[1])], text)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Tokens of a text with hidden parts: those as text, other special tokens as themselves."""
        marked = self._any_or_mark.sub(
            lambda match: self._texts[int(match[1])] if match[1] else self._as_special[match[0]],
            text,
        )
        return self._renamed.encode(marked, add_special_tokens=add_special_tokens).ids

    @cached_property
    def _renamed(self) -> Tokenizer:
        """The tokenizer, but that it knows the special tokens by other names, of the same ids."""
        backend = self._tokenizer.backend_tokenizer
        names = self._as_special
        content = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
        for token in content["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        _rename_in_model(content["model"], names)
        renamed = Tokenizer.from_str(json.dumps(content))
        for text, name in names.items():
            assert renamed.token_to_id(name) == backend.token_to_id(text), text
        return renamed


def _rename_in_model(model: dict[str, Any], names: dict[str, str]) -> None:
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(text, text): number for text, number in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
    if "unk_token" in model:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if not _is_of(pair, names)]


def _is_of(pair: Sequence[str] | str, names: Mapping[str, str]) -> bool:
    """Whether a merge makes one of some tokens, or goes on from one."""
    left, right = pair.split(" ") if isinstance(pair, str) else pair
    return not names.keys().isdisjoint((left, right, left + right))


def _changes_text(backend: Tokenizer) -> bool:
    """Whether the tokenizer normalizes what it reads."""
    normalizer = json.loads(backend.to_str())["normalizer"]
    return normalizer is not None and normalizer.get("normalizers") != []


def hidden_in(value: Any, special: SpecialText) -> Any:
    """A message, or a part of one, with `hide` applied to every text in it."""
    if isinstance(value, str):
        return special.hide(value)
    if isinstance(value, dict):  # Templates write keys, too: those of a call's arguments.
        return {special.hide(key): hidden_in(part, special) for key, part in value.items()}
    if isinstance(value, Sequence):
        return [hidden_in(part, special) for part in value]
    return value
