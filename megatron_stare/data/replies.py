"""What a chat template writes between a turn of the model and its next one, around a reply to it.

A conversation that goes on is never rendered and encoded anew: what the model wrote stays the
tokens that it wrote, and only what comes behind them is encoded. What that is, a template shows
once, by a conversation of marks:

    ...<|im_start|>assistant            the prompt
    MARK                                a turn of the model
    <|im_end|>                          `end`: its own, or put in where it was cut
    <|im_start|>user
    <tool_response>                     `before`
    RESULT
    </tool_response><|im_end|>
    <|im_start|>assistant               `after`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerFast

from megatron_stare.data.rendering import Chat, render_chats
from megatron_stare.data.special_text import SpecialText
from megatron_stare.data.tables import UnusableRow
from megatron_stare.errors import UserError

_QUESTION, _MARK, _RESULTS = "which7?", "markedturn", ("firstresult", "secondresult")


@dataclass(frozen=True, slots=True)
class ReplyForm:
    """Texts around replies, of a tokenizer whose special tokens they have.

    end      the token that ends a turn of the model
    before, between, after  what stands behind it, between two results, and behind the last
    """

    end: int
    before: str
    between: str
    after: str
    special: SpecialText

    def encode(self, results: Sequence[str], *, last_token: int) -> tuple[int, ...]:
        """Tokens from a turn of the model to where the next one begins.

        What stands in a result is text, never a token that was added to the vocabulary.

        Args:
            last_token: of the turn; where it is not its end, the end comes first.
        """
        hidden = self.between.join(self.special.hide(result) for result in results)
        ids = self.special.encode(f"{self.before}{hidden}{self.after}", add_special_tokens=False)
        return (*(() if last_token == self.end else (self.end,)), *ids)


def reply_form(
    tokenizer: PreTrainedTokenizerFast,
    tools: Sequence[dict[str, Any]],
    role: Literal["tool", "user"],
) -> ReplyForm:
    """How the tokenizer's chat template has a role reply to the model.

    Args:
        tools: schemas that the prompt holds.

    Raises:
        UserError: what the template writes behind a turn cannot be told from what it writes of the
            turns before, or is not what a conversation as a whole is encoded to.
    """
    name = f"the chat template of {tokenizer.name_or_path!r}"
    prompt, one, two, again = _rendered(tokenizer, tools, role, name)
    if unnamed := [t["function"]["name"] for t in tools if t["function"]["name"] not in prompt]:
        raise UserError(f"{name} writes nothing of the tool {unnamed[0]!r}, expected its schema")
    delta = one.rpartition(_MARK)[2]
    before, found, after = delta.partition(_RESULTS[0])
    second = again.rpartition(_MARK)[2]
    if not (_MARK in one and found and second == f"{before}{_RESULTS[1]}{after}"):
        raise UserError(
            f"{name} does not write a reply of role {role!r} behind the model's turn as it is, "
            f"found {delta!r:.200} and then {second!r:.200}; expected the same around each"
        )
    behind = two.rpartition(_MARK)[2]
    between = behind.removeprefix(before + _RESULTS[0]).removesuffix(_RESULTS[1] + after)
    special = SpecialText(tokenizer, of_any_kind=True)
    end, *_ = special.encode(delta, add_special_tokens=False)
    if end not in tokenizer.added_tokens_decoder:
        raise UserError(f"{name} ends a turn with {delta!r:.60}, expected a token for it")
    before = before.removeprefix(tokenizer.added_tokens_decoder[end].content)
    form = ReplyForm(end, before, between if role == "tool" else "", after, special)
    _check(form, tokenizer, prompt, again, name)
    return form


def _rendered(
    tokenizer: PreTrainedTokenizerFast, tools: Sequence[dict[str, Any]], role: str, name: str
) -> list[str]:
    """A prompt; one reply, two (of a user one), and one to each of two turns, each to go on."""
    ask = {"role": "user", "content": _QUESTION}
    said = {"role": "assistant", "content": _MARK}
    replies = [{"role": role, "content": result} for result in _RESULTS]
    at_once = replies if role == "tool" else replies[:1]
    chats = [
        Chat("a question", [ask]),
        Chat("a reply", [ask, said, replies[0]]),
        Chat("two replies", [ask, said, *at_once]),
        Chat("a reply to each turn", [ask, said, replies[0], said, replies[1]]),
    ]
    texts = render_chats(tokenizer, chats, tools)
    for chat, text in zip(chats, texts, strict=True):
        if isinstance(text, UnusableRow):
            raise UserError(f"{name} cannot write {chat.name} of role {role!r}: {text}")
    return [str(text) for text in texts]


def _check(
    form: ReplyForm, tokenizer: PreTrainedTokenizerFast, prompt: str, again: str, name: str
) -> None:
    """See that tokens put together turn by turn are those of the whole conversation.

    But for what a template rewrites of earlier turns, in which no special token may be.
    """

    def encode(text: str) -> tuple[int, ...]:
        return tuple(form.special.encode(text, add_special_tokens=False))

    turn, whole = encode(_MARK), encode(again)
    together = encode(prompt)
    for result in _RESULTS:
        together += turn + form.encode([result], last_token=turn[-1])
    last = turn + form.encode([_RESULTS[1]], last_token=turn[-1])
    markers = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    if whole[-len(last) :] != last or not _same(whole, together, markers):
        raise UserError(
            f"{name}: a conversation as a whole has other tokens than its turns one by one, ending "
            f"in {whole[-len(last) :]} and {last}; expected a template that adds to what is there"
        )


def _same(whole: Sequence[int], together: Sequence[int], markers: set[int]) -> bool:
    """Whether both have the same special tokens, in the same order."""
    return [t for t in whole if t in markers] == [t for t in together if t in markers]
