"""From a field of a row to the text and tokens of a prompt."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from megatron_stare.data.tables import Row, UnusableRow, checked_text
from megatron_stare.errors import UserError

CHAT = "chat"
"""The template that stands for the tokenizer's own."""

_TEXTS_AT_ONCE = 4096


class PromptTemplate:
    """Renders and tokenizes prompts, by a plain template with `{prompt}` or by the chat template.

    A plain prompt gets the special tokens its tokenizer adds (a BOS, in some families); a chat
    template writes them itself. UserError where `chat` is asked of a tokenizer that has none.
    """

    def __init__(
        self, template: str, tokenizer: PreTrainedTokenizerBase, *, system_prompt: str | None = None
    ) -> None:
        if template == CHAT and tokenizer.chat_template is None:
            raise UserError(
                f"template='chat': the tokenizer {tokenizer.name_or_path!r} has no chat template, "
                "expected one, or a plain template with '{prompt}'"
            )
        self._template = template
        self._tokenizer = tokenizer
        self._system_prompt = system_prompt

    def render(self, row: Row, key: str) -> str:
        """The prompt in a field of the row, as the policy reads it; UnusableRow without one."""
        value = row.get(key)
        if self._template == CHAT:
            messages = _messages(value, key) if isinstance(value, list) else _ask(row.text(key))
            return self._render_chat(messages)
        if isinstance(value, list):
            raise UnusableRow(f"field {key!r} holds chat messages, which need template: chat")
        return self._template.replace("{prompt}", row.text(key))

    def tokenize(self, texts: Sequence[str]) -> list[array[int]]:
        """Token ids of rendered prompts."""
        return tokenize(self._tokenizer, texts, add_special_tokens=self._template != CHAT)

    def _render_chat(self, messages: list[dict[str, Any]]) -> str:
        """A system message of the row's own goes before the configured one."""
        if self._system_prompt is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self._system_prompt}, *messages]
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise UnusableRow(f"the chat template refuses: {error}") from None
        assert isinstance(text, str)
        return text


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, add_special_tokens: bool
) -> list[array[int]]:
    """Token ids of each text, at 4 bytes a token; many texts at a time, which is far quicker."""
    ids: list[array[int]] = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        encoded = tokenizer(
            list(texts[start : start + _TEXTS_AT_ONCE]),
            add_special_tokens=add_special_tokens,
            return_attention_mask=False,
            verbose=False,
        )
        ids.extend(array("i", row) for row in encoded["input_ids"])
    return ids


def _ask(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def _messages(value: list[Any], key: str) -> list[dict[str, Any]]:
    for message in value:
        match message:
            case {"role": str(), "content": str() as content}:
                checked_text(content, key)
            case _:
                raise UnusableRow(f"field {key!r} holds no list of {{role, content}} messages")
    if not value:
        raise UnusableRow(f"field {key!r} is empty")
    return value
