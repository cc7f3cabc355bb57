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

from transformers import PreTrainedTokenizerBase

from megatron_stare.data.replies import ReplyForm, reply_form
from megatron_stare.data.special_text import SpecialText
from megatron_stare.errors import UserError
from megatron_stare.rollout.workflow.workflow import Call

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


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


class Hermes:
    """JSON between the tokens <tool_call> and </tool_call>; replies by the chat template.

    Raises:
        UserError: the vocabulary has no such tokens, the template writes no tools, or it is none
            that can be gone on with (`reply_form`).
    """

    call_stops: tuple[int, ...] = ()

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tools: Sequence[dict[str, Any]]) -> None:
        self._tokenizer = tokenizer
        self._open, self._close = (_token_of(tokenizer, text) for text in (_OPEN, _CLOSE))
        self._of_tools: ReplyForm = reply_form(tokenizer, tools, "tool")
        self._of_user: ReplyForm = reply_form(tokenizer, tools, "user")
        self.turn_end = self._of_tools.end

    def read(self, token_ids: Sequence[int], *, can_call: bool) -> Reading:
        """Calls are recognised by their tokens."""
        calls: list[Call] = []
        start: int | None = None
        for place, token in enumerate(token_ids):
            if token == self._open:
                start = place + 1
            elif token == self._close and start is not None:
                calls.append(_parsed(str(self._tokenizer.decode(list(token_ids[start:place])))))
                start = None
        if start is not None:
            calls.append(Call("", {}, f"{_OPEN} has no {_CLOSE} behind it"))
        return Reading(tuple(calls))

    def reply(self, results: Sequence[str], *, last_token: int) -> tuple[int, ...]:
        """As messages of tools."""
        return self._of_tools.encode(results, last_token=last_token)

    def notice(self, text: str, *, last_token: int) -> tuple[int, ...]:
        """As a message of the user."""
        return self._of_user.encode([text], last_token=last_token)


class CodeBlocks:
    """Code in the middle of a response, for one tool; its output follows there.

    A turn stops at every token with which the block's closing mark may end, and goes on where it is
    not the end of a block.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tool: str,
        *,
        block: str,
        closing: str,
        output: str,
    ) -> None:
        self._tokenizer = tokenizer
        self._tool = tool
        self._block = re.compile(block, re.DOTALL)
        self._output = output
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


def fenced_python(tokenizer: PreTrainedTokenizerBase, tool: str) -> CodeBlocks:
    """Fences of Python, whose output is a fence, too (ToRL, SimpleTIR)."""
    return CodeBlocks(
        tokenizer,
        tool,
        block=r"```(?:python|py)[ \t]*\n(?P<code>.*?)```",
        closing="```",
        output="\n```output\n{}\n```\n",
    )


def code_tag(tokenizer: PreTrainedTokenizerBase, tool: str) -> CodeBlocks:
    """Code in <code>, with or without a fence, and output in <interpreter> (ReTool)."""
    return CodeBlocks(
        tokenizer,
        tool,
        block=r"<code>\s*(?:```(?:python|py)?[ \t]*\n)?(?P<code>.*?)(?:```)?\s*</code>",
        closing="</code>",
        output="\n<interpreter>\n{}\n</interpreter>\n",
    )


def tokens_that_end(tokenizer: PreTrainedTokenizerBase, mark: str) -> tuple[int, ...]:
    """Tokens that may complete a mark in a text, ascending.

    Those that hold it, and those that begin with an end of it.
    """
    ids = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.added_tokens_decoder))
    texts = tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
    ends = tuple(mark[place:] for place in range(1, len(mark)))
    pairs = zip(ids, texts, strict=True)
    return tuple(i for i, text in pairs if mark in text or text.startswith(ends))


def _token_of(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise UserError(
            f"workflow.format='hermes': {text} is {len(ids)} tokens of the tokenizer "
            f"{tokenizer.name_or_path!r}, expected one: calls are recognised by it"
        )
    return ids[0]


def _parsed(text: str) -> Call:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Call("", {}, f"{_OPEN} holds no valid JSON: {error}")
    match found:
        case {"name": str(name), "arguments": dict(arguments)}:
            return Call(name, arguments)
    return Call("", {}, f'{_OPEN} holds no {{"name": ..., "arguments": {{...}}}}')
