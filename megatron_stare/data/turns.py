"""What a template writes around a response: the beginning it prefills, the end it expects.

Found by rendering a conversation of marks. Templates that refuse one, or that write no special
tokens, have neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from megatron_stare.data.rendering import Chat, render_chats
from megatron_stare.errors import UserError

_MARK, _QUESTION = "\ue000", "which7?"
_OPEN_TAG = re.compile(r"<(?!assistant|bot|model|ai\b)[A-Za-z][\w-]*>\s*\Z")
"""A tag that a prompt ends with, and that is no role's."""


@dataclass(frozen=True, slots=True)
class TurnForm:
    """What a template writes around a response.

    prefill    text with which the prompt has begun the response, such as `<think>` and a newline
    turn_ends  the token that the template ends the response with, if it has one
    """

    prefill: str = ""
    turn_ends: tuple[int, ...] = ()

    def without_prefill(self, response: str) -> str:
        """A worked response without the beginning that the prompt has already.

        >>> TurnForm("<think>\\n").without_prefill("<think>\\nTwo.</think> 2")
        'Two.</think> 2'
        >>> TurnForm("<think>\\n").without_prefill("Two.</think> 2")
        'Two.</think> 2'
        """
        beginning = self.prefill.strip()
        rest = response.lstrip()
        if not beginning or not rest.startswith(beginning):
            return response
        rest = rest.removeprefix(beginning)
        space = self.prefill[len(self.prefill.rstrip()) :]
        return rest[_num_shared(rest, space) :]


def form_of_plain(template: str) -> TurnForm:
    """Of a plain template: a tag that is open behind `{prompt}`."""
    return TurnForm(_open_tag(template.rpartition("{prompt}")[2]))


def form_of_chat(tokenizer: PreTrainedTokenizerFast) -> TurnForm:
    """Of the tokenizer's chat template.

    Raises:
        UserError: the template is malformed, does not end, or makes one prompt of all questions.
    """
    ask = {"role": "user", "content": _QUESTION}
    answered = [ask, {"role": "assistant", "content": _MARK}]
    rendered = render_chats(
        tokenizer,
        [
            Chat("a question", [ask]),
            Chat("an answer", answered, is_asked=False),
            Chat("a second question", [*answered, ask], is_asked=False),
        ],
    )
    if isinstance(rendered[0], str) and _QUESTION not in rendered[0].casefold():
        raise UserError(
            f"the chat template of {tokenizer.name_or_path!r} leaves out what is asked: it makes "
            f"{rendered[0]!r:.80} of a question; expected one that writes a message's content"
        )
    prompt, answer, history = (text if isinstance(text, str) else "" for text in rendered)
    ends = _first_added(answer, tokenizer) or _first_added(history, tokenizer)
    prefill = _prefill(prompt, history)
    # Without a beginning of answers a prompt ends as a turn does: `<eos>`, `<end_of_turn>`.
    is_end = prefill.strip() in (tokenizer.eos_token, *tokenizer.convert_ids_to_tokens(list(ends)))
    return TurnForm("" if is_end else prefill, ends)


def _prefill(prompt: str, history: str) -> str:
    """What the prompt has where an answer of before begins; in history a prefill is left out."""
    header = _num_shared(prompt, history)
    if history[header:].lstrip().startswith(_MARK) and prompt[header:].strip():
        return prompt[header:]
    return _open_tag(prompt)


def _num_shared(a: str, b: str) -> int:
    """Characters with which both begin."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _open_tag(text: str) -> str:
    found = _OPEN_TAG.search(text)
    return found.group() if found else ""


def _first_added(text: str, tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """The token right behind the mark, if it is one that was added to the vocabulary."""
    behind = text.rpartition(_MARK)[2].strip() if _MARK in text else ""
    ids = tokenizer.encode(behind, add_special_tokens=False) if behind else []
    return (ids[0],) if ids and ids[0] in tokenizer.added_tokens_decoder else ()
