"""Messages as the tokens that a chat template makes of them, and a model's tokens as a message.

What the model wrote is never encoded again: of a conversation that goes on only the messages
behind its last turn become tokens, within what the template writes around them. That these are the
tokens of the whole conversation is checked once, at the start (`data/replies.py`).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from transformers import PreTrainedTokenizerFast

from megatron_stare.config.agent import AgentConfig
from megatron_stare.data.replies import reply_form
from megatron_stare.data.special_text import SpecialText, hidden_in
from megatron_stare.rollout.agents.refusal import Refusal
from megatron_stare.rollout.workflow.formats import CALL_TAGS, read_calls
from megatron_stare.rollout.workflow.workflow import Call

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]]


class ChatForm:
    """Of a tokenizer and its chat template; may be used from any thread.

    begins  the token that every conversation begins with
    end     the token that ends a turn of the model

    Raises:
        UserError: the tokenizer has no chat template, or none that can be gone on with.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._special = SpecialText(tokenizer, of_any_kind=True)
        self._mark = f"turn{secrets.token_hex(8)}"
        self._lock = Lock()
        self.end = reply_form(tokenizer, (), "user").end
        self.begins = self.opening([{"role": "user", "content": "which7?"}], ())[0]
        ids = [tokenizer.encode(tag, add_special_tokens=False) for tag in CALL_TAGS]
        self._can_call = all(len(one) == 1 for one in ids)

    def opening(self, messages: Sequence[Message], tools: Tools) -> tuple[int, ...]:
        """Tokens of a conversation's first messages, to where the model's first turn begins.

        Raises:
            Refusal: the template does not write them.
        """
        return self._encode(self._render(messages, tools))

    def going_on(
        self, messages: Sequence[Message], tools: Tools, *, last_token: int
    ) -> tuple[int, ...]:
        """Tokens from the model's turn to its next one, with these messages between.

        Args:
            last_token: of the turn; where it is not its end, the end comes first.

        Raises:
            Refusal: the template does not write them.
        """
        before = [{"role": "user", "content": "which7?"}]
        before.append({"role": "assistant", "content": self._mark})
        rendered = self._render([*before, *messages], tools)
        end, *rest = self._encode(rendered.partition(self._mark)[2])
        if end != self.end:
            raise Refusal("the chat template writes no end of the model's turn before these")
        return (*(() if last_token == end else (end,)), *rest)

    def said(self, token_ids: Sequence[int], tools: Tools) -> tuple[str, tuple[Call, ...]]:
        """The text of a turn of the model, and its calls: none, where one cannot be read."""
        with self._lock:
            calls = read_calls(self._tokenizer, token_ids) if tools and self._can_call else ()
            text = str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))
        if not calls or any(call.problem for call in calls):
            return text, ()
        return text.partition(CALL_TAGS[0])[0].strip(), calls

    def _render(self, messages: Sequence[Message], tools: Tools) -> str:
        if tools and not self._can_call:
            raise Refusal(f"tools: the model has no tokens {' and '.join(CALL_TAGS)} to call them")
        hidden: list[Any] = [
            message if message["role"] == "assistant" else hidden_in(message, self._special)
            for message in messages
        ]
        try:
            with self._lock:
                return str(
                    self._tokenizer.apply_chat_template(
                        hidden,
                        tools=[dict(tool) for tool in tools] or None,
                        tokenize=False,
                        add_generation_prompt=True,
                    )
                )
        except Exception as error:  # A template is a program, and may refuse anything.
            raise Refusal(f"messages: the chat template refuses: {error}") from None

    def _encode(self, text: str) -> tuple[int, ...]:
        with self._lock:
            return tuple(self._special.encode(text, add_special_tokens=False))


def chat_form_of(config: AgentConfig, tokenizer: PreTrainedTokenizerFast) -> ChatForm | None:
    """How agents' messages become tokens, where there is an agent. Raises as `ChatForm`."""
    return None if config.function is None else ChatForm(tokenizer)


def arguments_of(call: Call) -> str:
    """As OpenAI's API writes them."""
    return json.dumps(dict(call.arguments), ensure_ascii=False)
