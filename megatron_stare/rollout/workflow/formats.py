"""How calls are written, and what stands around what tools say.

A format reads the tokens of one turn of the model, and nothing else: what a tool said is never
taken for a call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from transformers import PreTrainedTokenizerFast

from megatron_stare.data.replies import ReplyForm, reply_form
from megatron_stare.data.special_text import SpecialText
from megatron_stare.errors import UserError
from megatron_stare.rollout.workflow.workflow import Call
from megatron_stare.turns import LEFT_OUT

CALL_TAGS = "<tool_call>", "</tool_call>"
"""Between which the format `hermes` has a call."""
_OPEN, _CLOSE = CALL_TAGS


@dataclass(frozen=True, slots=True)
class Reading:
    """What a turn says: its calls, if it has any; one that `goes_on` was stopped in its middle."""

    calls: tuple[Call, ...] = ()
    goes_on: bool = False


class Format(Protocol):
    """One way of writing calls."""

    @property
    def call_stops(self) -> tuple[int, ...]:
        """Tokens at which a turn is looked at, beside those that end it."""
        ...

    def read(self, token_ids: Sequence[int], *, can_call: bool) -> Reading:
        """What the tokens of a turn say that has stopped."""
        ...

    def reply(self, results: Sequence[str], *, last_token: int) -> tuple[int, ...]:
        """Tokens between a turn and the next one: the results, and what stands around them."""
        ...

    def notice(self, text: str, *, last_token: int) -> tuple[int, ...]:
        """The same of something that no tool said."""
        ...


class WritableFormat(Format, Protocol):
    """One in which turns are written that no model has, for it to learn them."""

    @property
    def turn_end(self) -> int | None:
        """Token behind a turn that calls; None where a response goes on behind a call."""
        ...

    def write(self, content: str, calls: Sequence[Call]) -> str:
        """The text of a turn that says something and then calls; `read` finds the same calls."""
        ...

    def split(self, text: str) -> list[str]:
        """What the model has written of a text, and between two such parts what a tool said.

        Raises:
            ValueError: there is a call without what the tool said.
        """
        ...


class Hermes:
    """JSON between the tokens <tool_call> and </tool_call>; replies by the chat template.

    Raises:
        UserError: the vocabulary has no such tokens, the template writes no tools, or it is none
            that can be gone on with (`reply_form`).
    """

    call_stops: tuple[int, ...] = ()
    turn_end: int

    def __init__(self, tokenizer: PreTrainedTokenizerFast, tools: Sequence[dict[str, Any]]) -> None:
        self._tokenizer = tokenizer
        for tag in CALL_TAGS:
            _check_token(tokenizer, tag)
        self._of_tools: ReplyForm = reply_form(tokenizer, tools, "tool")
        self._of_user: ReplyForm = reply_form(tokenizer, tools, "user")
        self.turn_end = self._of_tools.end

    def read(self, token_ids: Sequence[int], *, can_call: bool) -> Reading:
        """Calls are recognised by their tokens."""
        return Reading(read_calls(self._tokenizer, token_ids))

    def reply(self, results: Sequence[str], *, last_token: int) -> tuple[int, ...]:
        """As messages of tools."""
        return self._of_tools.encode(results, last_token=last_token)

    def notice(self, text: str, *, last_token: int) -> tuple[int, ...]:
        """As a message of the user."""
        return self._of_user.encode([text], last_token=last_token)

    def write(self, content: str, calls: Sequence[Call]) -> str:
        """As the templates of these families write calls of before."""
        bodies = [
            json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
            for call in calls
        ]
        blocks = [f"{_OPEN}\n{body}\n{_CLOSE}" for body in bodies]
        return "\n".join([content, *blocks] if content else blocks)

    def split(self, text: str) -> list[str]:
        """A turn is all the model's."""
        return [text]


class CodeBlocks:
    """Code in the middle of a response, for one tool; its output follows there.

    A turn stops at every token with which the block's closing mark may end, and goes on where it is
    not the end of a block.
    """

    turn_end = None

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        tool: str,
        *,
        block: str,
        written: str,
        closing: str,
        output: str,
    ) -> None:
        self._tokenizer = tokenizer
        self._tool = tool
        self._block = re.compile(block, re.DOTALL)
        self._written = written
        self._output = output
        before, after = map(re.escape, map(str.strip, output.split("{}")))
        self._said = re.compile(rf"\s*{before}(?P<text>.*?){after}\n?", re.DOTALL)
        self._special = SpecialText(tokenizer, of_any_kind=True)
        self.call_stops = tokens_that_end(tokenizer, closing)

    def read(self, token_ids: Sequence[int], *, can_call: bool) -> Reading:
        """A copy is decoded to look for a block; the tokens stay what they are."""
        if not can_call or token_ids[-1] not in self.call_stops:
            return Reading()
        text = str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))
        *_, last = [None, *self._block.finditer(text)]
        if last is None or text[last.end() :].strip():
            return Reading(goes_on=True)
        return Reading((Call(self._tool, {"code": last["code"]}),))

    def reply(self, results: Sequence[str], *, last_token: int) -> tuple[int, ...]:
        """Within the response."""
        hidden = self._special.hide("\n".join(results))
        text = self._output.format(hidden)
        return tuple(self._special.encode(text, add_special_tokens=False))

    def notice(self, text: str, *, last_token: int) -> tuple[int, ...]:
        """As output."""
        return self.reply([text], last_token=last_token)

    def write(self, content: str, calls: Sequence[Call]) -> str:
        """A block for each call."""
        blocks = [self._written.format(str(call.arguments.get("code")).rstrip()) for call in calls]
        return "\n".join([content, *blocks] if content else blocks)

    def split(self, text: str) -> list[str]:
        """At blocks; behind one at the very end nothing has to stand."""
        parts, start = list[str](), 0
        while block := self._block.search(text, start):
            parts.append(text[start : block.end()])
            if not text[block.end() :].strip():
                return parts
            said = self._said.match(text, block.end())
            if said is None:
                raise ValueError(f"code has no {self._output.strip()!r} behind it")
            parts.append(_within(said["text"]))
            start = said.end()
        return [*parts, text[start:]]


def _within(text: str) -> str:
    """An output without the line ends around it, where it has both."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == "\n" else text


def fenced_python(tokenizer: PreTrainedTokenizerFast, tool: str) -> CodeBlocks:
    """Fences of Python, whose output is a fence, too."""
    return CodeBlocks(
        tokenizer,
        tool,
        block=r"```(?:python|py)[ \t]*\n(?P<code>.*?)```",
        written="```python\n{}\n```",
        closing="```",
        output="\n```output\n{}\n```\n",
    )


def code_tag(tokenizer: PreTrainedTokenizerFast, tool: str) -> CodeBlocks:
    """Code in <code>, with or without a fence, and output in <interpreter>."""
    return CodeBlocks(
        tokenizer,
        tool,
        block=r"<code>\s*(?:```(?:python|py)?[ \t]*\n)?(?P<code>.*?)(?:```)?\s*</code>",
        written="<code>\n```python\n{}\n```\n</code>",
        closing="</code>",
        output="\n<interpreter>\n{}\n</interpreter>\n",
    )


def cut_middle(tokenizer: PreTrainedTokenizerFast, text: str, limit: int) -> str:
    """A text of so many tokens at most, but for what says that its middle is left out."""
    # What looks like a special token is text there, and stays in it.
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    if len(ids) <= limit:
        return text
    head, tail = (
        tokenizer.decode(part, skip_special_tokens=True)
        for part in (ids[: limit // 2], ids[len(ids) - limit // 2 :])
    )
    return f"{head}{LEFT_OUT}{tail}"


def tokens_that_end(tokenizer: PreTrainedTokenizerFast, mark: str) -> tuple[int, ...]:
    """Tokens that may complete a mark in a text, ascending.

    Those that hold it, and those that begin with an end of it.
    """
    ids = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.added_tokens_decoder))
    texts = tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
    ends = tuple(mark[place:] for place in range(1, len(mark)))
    pairs = zip(ids, texts, strict=True)
    return tuple(i for i, text in pairs if mark in text or text.startswith(ends))


def _check_token(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise UserError(
            f"workflow.format='hermes': {text} is {len(ids)} tokens of the tokenizer "
            f"{tokenizer.name_or_path!r}, expected one: calls are recognised by it"
        )


def read_calls(tokenizer: PreTrainedTokenizerFast, token_ids: Sequence[int]) -> tuple[Call, ...]:
    """The calls between the tokens <tool_call> and </tool_call>, which the vocabulary has."""
    opening, closing = (tokenizer.convert_tokens_to_ids(tag) for tag in CALL_TAGS)
    calls: list[Call] = []
    start: int | None = None
    for place, token in enumerate(token_ids):
        if token == opening:
            start = place + 1
        elif token == closing and start is not None:
            calls.append(_parsed(str(tokenizer.decode(list(token_ids[start:place])))))
            start = None
    if start is not None:
        calls.append(Call("", {}, f"{_OPEN} has no {_CLOSE} behind it"))
    return tuple(calls)


def _parsed(text: str) -> Call:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Call("", {}, f"{_OPEN} holds no valid JSON: {error}")
    match found:
        case {"name": str(name), "arguments": dict(arguments)}:
            return Call(name, arguments)
    return Call("", {}, f'{_OPEN} holds no {{"name": ..., "arguments": {{...}}}}')
