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
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

_BEGIN = "\ufdd0"
"""Of what stands for a special token's text: no character of Unicode."""


class SpecialText:
    """The special tokens of a tokenizer, told apart from texts that look like them.

    Args:
        of_any_kind: tokens that were added to the vocabulary and are not special, too, such as the
            `<tool_call>` of some families.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, of_any_kind: bool = False) -> None:
        self._tokenizer = tokenizer
        # Not to be guessed: a text could else hold the marks themselves.
        key = secrets.randbelow(10**12)
        self._hidden = f"{_BEGIN}{key}.{{}}\ufdd1"
        self._special = f"{_BEGIN}{key}:{{}}\ufdd1"
        self._texts: list[str] = []
        if isinstance(tokenizer, PreTrainedTokenizerFast):
            added = tokenizer.added_tokens_decoder.values()
            wanted = (token for token in added if token.special or of_any_kind)
            self._texts = [token.content for token in wanted if token.content]
        self._number = {text: number for number, text in enumerate(self._texts)}
        longest_first = sorted(map(re.escape, self._texts), key=len, reverse=True)
        self._any = re.compile("|".join(longest_first) or r"(?!)")

    def hide(self, text: str) -> str:
        """The text with special tokens in it replaced by what no tokenizer or template knows."""
        return self._replace(text, self._hidden)

    def is_in(self, text: str) -> bool:
        """Whether a text has hidden parts."""
        return self.show(text) != text

    def show(self, text: str) -> str:
        """The text as it was before `hide`."""
        pattern = re.escape(self._hidden).replace(r"\{\}", r"(\d+)")
        return re.sub(pattern, lambda match: self._texts[int(match[1])], text)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Tokens of a text with hidden parts: those as text, other special tokens as themselves."""
        marked = self.show(self._replace(text, self._special))
        return self._renamed.encode(marked, add_special_tokens=add_special_tokens).ids

    def _replace(self, text: str, mark: str) -> str:
        return self._any.sub(lambda match: mark.format(self._number[match[0]]), text)

    @cached_property
    def _renamed(self) -> Tokenizer:
        """The tokenizer, but that it knows the special tokens by other names, of the same ids."""
        assert isinstance(self._tokenizer, PreTrainedTokenizerFast)
        backend = self._tokenizer.backend_tokenizer
        names = {text: self._special.format(number) for text, number in self._number.items()}
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


def hidden_in(value: Any, special: SpecialText) -> Any:
    """A message, or a part of one, with `hide` applied to every text in it."""
    if isinstance(value, str):
        return special.hide(value)
    if isinstance(value, dict):
        return {key: hidden_in(part, special) for key, part in value.items()}
    if isinstance(value, Sequence):
        return [hidden_in(part, special) for part in value]
    return value
