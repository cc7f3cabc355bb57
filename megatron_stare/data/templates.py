"""From a field of a row to the text and tokens of a prompt."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerFast

from megatron_stare.data.rendering import Chat, render_chats
from megatron_stare.data.special_text import SpecialText, hidden_in
from megatron_stare.data.tables import Row, UnusableRow, checked_text, is_unicode
from megatron_stare.data.tokenizer import eos_token_id
from megatron_stare.data.turns import TurnForm, form_of_chat, form_of_plain
from megatron_stare.errors import UserError

CHAT = "chat"
"""The template that stands for the tokenizer's own."""

_TEXTS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Question:
    """What a row asks, before any template: the text, or chat messages.

    Special tokens in it are hidden, as `SpecialText` does, where they are to be text.
    """

    name: str
    content: str | list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as the policy reads it: its text, and its tokens at 4 bytes each."""

    text: str
    token_ids: array[int]


class PromptTemplate:
    """Renders and tokenizes prompts, by a plain template with `{prompt}` or by the chat template.

    A plain prompt gets the special tokens its tokenizer adds (a BOS, in some families); a chat
    template writes them itself. Special tokens that stand in a row's text are text, but for what an
    assistant has said there, unless `parse_special_tokens`. `tools` are schemas for the chat
    template to write.

        template = PromptTemplate("chat", tokenizer)
        question = template.question(row, "prompt")
        [rendered] = template.render([question])

    Raises:
        UserError: `chat` is asked of a tokenizer that has no template, or a malformed one.
    """

    form: TurnForm
    """What the template begins a response with, and ends it with."""

    def __init__(
        self,
        template: str,
        tokenizer: PreTrainedTokenizerFast,
        *,
        system_prompt: str | None = None,
        parse_special_tokens: bool = False,
        tools: Sequence[dict[str, Any]] = (),
    ) -> None:
        if template == CHAT and tokenizer.chat_template is None:
            raise UserError(
                f"template='chat': the tokenizer {tokenizer.name_or_path!r} has no chat template, "
                "expected one, or a plain template with '{prompt}'"
            )
        self._template = template
        self._tokenizer = tokenizer
        self._system_prompt = system_prompt
        self._tools = tools
        self._special = None if parse_special_tokens else SpecialText(tokenizer)
        self.form = form_of_chat(tokenizer) if template == CHAT else form_of_plain(template)

    def question(self, row: Row, key: str) -> Question:
        """What a field of the row asks; UnusableRow where that is nothing to ask."""
        value = row.get(key)
        if self._template == CHAT:
            messages = _messages(value, key) if isinstance(value, list) else _ask(row.text(key))
            return Question(row.name, [self._hidden(message) for message in messages])
        if isinstance(value, list):
            raise UnusableRow(f"field {key!r} holds chat messages, which need template: chat")
        return Question(row.name, self._hidden(row.text(key)))

    def with_more(self, question: Question, text: str) -> Question:
        """The question with a text behind it: behind the last message of a chat."""
        more = self._hidden(text)
        if isinstance(question.content, str):
            return replace(question, content=question.content + more)
        *before, last = question.content
        return replace(question, content=[*before, {**last, "content": last["content"] + more}])

    def render(self, questions: Sequence[Question]) -> list[Rendered | UnusableRow]:
        """The prompt of each question, or why it has none.

        Raises:
            UserError: the chat template does not end, or takes too much memory.
        """
        if self._template == CHAT:
            texts = render_chats(
                self._tokenizer,
                [Chat(q.name, self._with_system(q.content)) for q in questions],
                self._tools,
            )
        else:
            texts = [self._template.replace("{prompt}", str(q.content)) for q in questions]
        checked = [_checked(text) for text in texts]
        rendered = iter(self._tokenize([text for text in checked if isinstance(text, str)]))
        return [
            text if isinstance(text, UnusableRow) else _with_tokens(next(rendered))
            for text in checked
        ]

    def _with_system(self, content: Any) -> list[dict[str, Any]]:
        """A system message of the row's own goes before the configured one."""
        if self._system_prompt is None or content[0]["role"] == "system":
            return content
        return [{"role": "system", "content": self._system_prompt}, *content]

    def _hidden(self, value: Any) -> Any:
        is_of_policy = isinstance(value, Mapping) and value["role"] == "assistant"
        return value if self._special is None or is_of_policy else hidden_in(value, self._special)

    def _tokenize(self, texts: Sequence[str]) -> list[Rendered]:
        """Prompts without anything hidden go together, which is far quicker."""
        add = self._template != CHAT
        is_plain = [self._special is None or not self._special.is_in(text) for text in texts]
        plain = [text for text, plain in zip(texts, is_plain, strict=True) if plain]
        token_ids = iter(tokenize(self._tokenizer, plain, add_special_tokens=add))
        return [
            Rendered(text, next(token_ids)) if plain else self._encode_hidden(text, add)
            for text, plain in zip(texts, is_plain, strict=True)
        ]

    def _encode_hidden(self, text: str, add: bool) -> Rendered:
        assert self._special is not None
        ids = self._special.encode(text, add_special_tokens=add)
        return Rendered(self._special.show(text), array("i", ids))


def tokenize(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, add_special_tokens: bool
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


def with_end(tokenizer: PreTrainedTokenizerFast, responses: Sequence[str]) -> list[array[int]]:
    """Token ids of responses that were worked out, each with its end of sequence."""
    tokens = tokenize(tokenizer, responses, add_special_tokens=False)
    end = array("i", [eos_token_id(tokenizer)])
    return [response + end for response in tokens]


def _checked(text: str | UnusableRow) -> str | UnusableRow:
    """What a template gave, if a tokenizer can read it."""
    if isinstance(text, str) and not is_unicode(text):
        return UnusableRow("the template gives invalid Unicode")
    return text


def _with_tokens(rendered: Rendered) -> Rendered | UnusableRow:
    return rendered if rendered.token_ids else UnusableRow("the prompt has no tokens")


def _ask(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def _messages(value: list[Any], key: str) -> list[dict[str, Any]]:
    for message in value:
        match message:
            case {"role": str(), "content": str() as content}:
                checked_text(content, key)
                _check_unicode(message, key)
            case _:
                raise UnusableRow(f"field {key!r} holds no list of {{role, content}} messages")
    if not value:
        raise UnusableRow(f"field {key!r} is empty")
    return value


def _check_unicode(value: Any, key: str) -> None:
    """Every text in a message, its role and keys of its own included: templates may write them."""
    if isinstance(value, str):
        if not is_unicode(value):
            raise UnusableRow(f"field {key!r} is not valid Unicode")
    elif isinstance(value, Mapping):
        for name, part in value.items():
            _check_unicode(name, key)
            _check_unicode(part, key)
    elif isinstance(value, list):
        for part in value:
            _check_unicode(part, key)
