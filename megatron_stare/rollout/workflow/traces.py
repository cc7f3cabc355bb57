"""Traces: conversations in which a model has called tools, to be learned from.

A trace becomes the tokens that the same episode would have if it were played, by the same pieces:
the prompt as rollouts render it, turns of the model as it would write them, and between them what
the format writes around what tools and users say, which is under the loss mask. Two layouts are
read, mixed as they come:

    messages  {"role": "assistant", "content": ..., "tool_calls": [{"function": {"name": ...,
              "arguments": {...}}}]}, then a message of role `tool` for each call
    text      one text with blocks of code, and behind each what came of it
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerFast

from megatron_stare.config.data import SftDataConfig
from megatron_stare.config.sft import SftConfig
from megatron_stare.data.drawn import DrawnSet, TokenRow
from megatron_stare.data.tables import Row, UnusableRow, build_rows, checked_text, is_unicode
from megatron_stare.data.templates import PromptTemplate, Question
from megatron_stare.data.tokenizer import eos_token_id
from megatron_stare.errors import UserError
from megatron_stare.rollout.stop_tokens import stop_token_ids
from megatron_stare.rollout.workflow.formats import WritableFormat, cut_middle
from megatron_stare.rollout.workflow.opening import find_tools, make_format, prompt_tools
from megatron_stare.rollout.workflow.workflow import Call
from megatron_stare.types import TokenBatch

_THOUGHTS = ("reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True, slots=True)
class Said:
    """A turn of the model, a result of a tool, or what a user says behind an answer.

    calls  of a turn, where its message has them apart from its text
    """

    role: Literal["assistant", "tool", "user"]
    text: str
    calls: tuple[Call, ...] = ()


class TraceSet(DrawnSet):
    """The traces of a file. The loss is on what the model wrote, with the ends of its turns."""

    def draw(self, count: int) -> TokenBatch:
        """The next `count` traces."""
        rows = self.take(count)
        return TokenBatch(
            torch.tensor(
                [token for prompt, ids, _ in rows for part in (prompt, ids) for token in part]
            ),
            torch.tensor([len(prompt) for prompt, *_ in rows]),
            torch.tensor([len(ids) for _, ids, _ in rows]),
            torch.tensor([own for *_, mask in rows for own in mask], dtype=torch.bool),
        )


def open_traces(config: SftConfig, tokenizer: PreTrainedTokenizerFast) -> TraceSet:
    """The traces of `config.data`, as episodes of `config.workflow` with `config.tools`.

    Raises:
        UserError: a trace is none, with its row and what was expected (of `data.on_bad_trace`), or
            no row is left; format, tools and tokenizer do not fit together, as in rollouts.
    """
    data = config.data
    toolbox = find_tools(config.tools, config.workflow, report=lambda _: None)
    template = PromptTemplate(
        data.template,
        tokenizer,
        parse_special_tokens=data.parse_special_tokens,
        tools=prompt_tools(config.workflow, toolbox),
    )
    stop_ids = stop_token_ids(config.model.path, tokenizer, turn_ends=template.form.turn_ends)
    written = make_format(config.workflow, toolbox, tokenizer, stop_ids)
    writer = _Writer(tokenizer, written, template, data, toolbox.names, frozenset(stop_ids))

    def build(row: Row) -> tuple[Question, TokenRow]:
        asked, said = _parts(row, data)
        try:
            question = template.question(Row(row.number, row.name, {"": asked}), "")
            return question, writer.encode(_turns(said, written))
        except UnusableRow as reason:
            if data.on_bad_trace == "skip":
                raise
            raise UserError(f"{row.name}: {reason}") from None

    rows, report = build_rows(data.path, build)
    prompts = template.render([question for question, _ in rows])
    fitting: list[TokenRow] = []
    for (question, (ids, mask)), prompt in zip(rows, prompts, strict=True):
        if isinstance(prompt, UnusableRow):
            report.leave_out(question.name, str(prompt))
        elif len(prompt.token_ids) + len(ids) <= data.max_tokens:
            fitting.append((prompt.token_ids, ids, mask))
        else:
            report.leave_out(question.name, f"over {data.max_tokens} tokens")
    return TraceSet(fitting, report, seed=config.run.seed)


class _Writer:
    """Writes the response of a trace."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        written: WritableFormat,
        template: PromptTemplate,
        data: SftDataConfig,
        tools: Sequence[str],
        stop_ids: frozenset[int],
    ) -> None:
        self._tokenizer = tokenizer
        self._format = written
        self._form = template.form
        self._max_observation_tokens = data.max_observation_tokens
        self._tools = tools
        self._stop_ids = stop_ids
        self._eos = eos_token_id(tokenizer)

    def encode(self, said: Sequence[Said]) -> TokenRow:
        """Token ids, and for each whether the model wrote it.

        Raises:
            UnusableRow: it is no episode.
        """
        ids, mask = array("i"), array("b")
        runs = [(role, list(run)) for role, run in groupby(said, lambda one: one.role)]
        for place, (role, run) in enumerate(runs):
            if role == "assistant":
                following = runs[place + 1] if place + 1 < len(runs) else ("", [])
                new = self._turn(run, *following, is_first=place == 0)
            elif role == "user":
                new = self._format.notice(self._one(run, "user").text, last_token=ids[-1])
            else:
                limit = self._max_observation_tokens
                texts = [cut_middle(self._tokenizer, one.text, limit) for one in run]
                new = self._format.reply(texts, last_token=ids[-1])
            ids.extend(new)
            mask.extend([role == "assistant"] * len(new))
        return ids, mask

    def _turn(
        self, run: Sequence[Said], next_role: str, replies: Sequence[Said], *, is_first: bool
    ) -> list[int]:
        turn = self._one(run, "assistant")
        text = turn.text
        if is_first or self._format.turn_end is not None:
            text = self._form.without_prefill(text)
        text = self._format.write(text, turn.calls)
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        if not ids:
            raise UnusableRow("a turn of the model is empty, expected text or calls")
        if stops := self._stop_ids.intersection(ids):
            named = self._tokenizer.convert_ids_to_tokens(sorted(stops))
            raise UnusableRow(f"a turn of the model has {named[0]} in it, at which it would end")
        num_calls = self._num_calls(ids, turn)
        num_results = len(replies) if next_role == "tool" else 0
        if num_calls != num_results:
            raise UnusableRow(
                f"a turn of the model has {num_calls} calls, and behind it are {num_results} "
                "results, expected one for each"
            )
        if next_role == "user" and self._format.turn_end is None:
            raise UnusableRow("a user speaks behind a response, expected it to be the last turn")
        if self._format.turn_end is None:
            return ids if num_calls else [*ids, self._eos]
        return [*ids, self._format.turn_end]

    def _num_calls(self, ids: Sequence[int], turn: Said) -> int:
        """Calls that a rollout would find in a turn, all of which have to be good ones."""
        found = self._format.read(ids, can_call=True).calls
        for call in found:
            if call.problem:
                raise UnusableRow(f"a call cannot be read: {call.problem}")
            if call.name not in self._tools:
                names = ", ".join(self._tools)
                raise UnusableRow(f"a call of {call.name[:80]!r}, expected one of {names}")
        if turn.calls and len(found) != len(turn.calls):
            raise UnusableRow(
                f"{len(turn.calls)} calls in tool_calls, of which {len(found)} can be read in the "
                "format, expected all"
            )
        return len(found)

    def _one(self, run: Sequence[Said], role: str) -> Said:
        if len(run) > 1:
            raise UnusableRow(f"{len(run)} messages of role {role!r} in a row, expected one")
        return run[0]


def _parts(row: Row, data: SftDataConfig) -> tuple[Any, list[Any]]:
    """What is asked, and the messages behind it."""
    if data.messages_field is None:
        response = row.get(data.response_field)
        if not isinstance(response, list):
            response = [{"role": "assistant", "content": row.text(data.response_field)}]
        return row.get(data.prompt_field), response
    messages = row.get(data.messages_field)
    if not isinstance(messages, list) or not all(isinstance(m, Mapping) for m in messages):
        raise UnusableRow(f"field {data.messages_field!r} holds no list of messages")
    roles = [message.get("role") for message in messages]
    start = roles.index("assistant") if "assistant" in roles else 0
    if start == 0:
        raise UnusableRow(f"field {data.messages_field!r} has no turn of the model behind a prompt")
    asked = messages[:start]
    if data.template != "chat" and roles[:start] == ["user"]:
        asked = asked[0].get("content")
    return asked, messages[start:]


def _turns(messages: Sequence[Any], written: WritableFormat) -> list[Said]:
    """What was said, with texts of several turns taken apart."""
    said = [one for message in messages for one in _said(message, written)]
    if not said or said[0].role != "assistant" or said[-1].role != "assistant":
        raise UnusableRow("a trace begins and ends with other turns, expected those of the model")
    return said


def _said(message: Any, written: WritableFormat) -> Iterable[Said]:
    match message:
        case {"role": "assistant"}:
            yield from _of_model(message, written)
        case {"role": "tool" | "user" as role, "content": str(text)} if is_unicode(text):
            yield Said(role, text)
        case {"role": "tool" | "user" as role}:
            raise UnusableRow(f"a message of role {role!r} has no text")
        case _:
            role = message.get("role") if isinstance(message, Mapping) else message
            raise UnusableRow(
                f"a message of role {role!r:.80} behind the prompt, expected assistant, tool or "
                "user"
            )


def _of_model(message: Mapping[str, Any], written: WritableFormat) -> Iterable[Said]:
    if key := next((key for key in _THOUGHTS if message.get(key)), None):
        raise UnusableRow(f"a message has {key!r} beside its content, expected all in `content`")
    content = message.get("content") or ""
    calls = tuple(_call(call) for call in message.get("tool_calls") or ())
    if not isinstance(content, str) or not (calls or checked_text(content, "content")):
        raise UnusableRow("a message of role 'assistant' has no text")
    if not is_unicode(content):
        raise UnusableRow("a message of role 'assistant' is not valid Unicode")
    if calls:
        yield Said("assistant", content, calls)
        return
    try:
        parts = written.split(content)
    except ValueError as error:
        raise UnusableRow(f"{error}, expected what came of it") from None
    for place, part in enumerate(parts):
        yield Said("tool" if place % 2 else "assistant", part)


def _call(call: Any) -> Call:
    """As Hugging Face and OpenAI write it; arguments may be JSON in a text."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    match function:
        case {"name": str(name), "arguments": str(text)}:
            try:
                arguments = json.loads(text)
            except (ValueError, RecursionError):
                arguments = None
        case {"name": str(name), "arguments": arguments}:
            pass
        case _:
            raise UnusableRow("tool_calls hold no {function: {name, arguments}}")
    if not isinstance(arguments, Mapping):
        raise UnusableRow(f"a call of {name[:80]!r} has no arguments by name")
    return Call(name, arguments)
