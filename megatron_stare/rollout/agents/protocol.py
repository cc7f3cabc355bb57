"""Chat completions of OpenAI's API: what is read of a request, and how an answer is written."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

from megatron_stare.rollout.agents.chat_form import arguments_of
from megatron_stare.rollout.agents.refusal import Refusal
from megatron_stare.rollout.workflow.workflow import Call

_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a client asks for; sampling is the run's, whatever it says of it.

    messages    each with `role`, `content`, and of assistants perhaps `tool_calls`, as templates
                take them
    max_tokens  of the answer; None for what is left
    """

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...]
    max_tokens: int | None
    streams: bool
    streams_usage: bool


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A turn of the model, as a client reads it; `calls` with the ids that they are answered by."""

    content: str
    calls: tuple[tuple[str, Call], ...]
    finish_reason: Literal["stop", "length", "tool_calls"]
    num_prompt_tokens: int
    num_tokens: int

    @property
    def message(self) -> dict[str, Any]:
        """As it has to come back in the client's next request."""
        calls = [
            {"id": name, "type": "function", "function": {"name": call.name, "arguments": args}}
            for name, call in self.calls
            for args in (arguments_of(call),)
        ]
        content = self.content if self.content or not calls else None
        return {"role": "assistant", "content": content, **({"tool_calls": calls} if calls else {})}

    @property
    def usage(self) -> dict[str, int]:
        """Tokens."""
        total = self.num_prompt_tokens + self.num_tokens
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_tokens,
            "total_tokens": total,
        }


def read_request(body: bytes, model: str) -> ChatRequest:
    """A request for a chat completion.

    Raises:
        Refusal: it is none, is for another model, or asks for what this endpoint cannot do.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"the body is no JSON: {error}") from None
    if not isinstance(asked, dict):
        raise Refusal(f"the body is {type(asked).__name__}, expected an object")
    if asked.get("model") != model:
        found = str(asked.get("model"))[:80]
        message = f"model: there is no {found!r}, expected {model!r}"
        raise Refusal(message, status=404, code="model_not_found")
    _check_can_do(asked)
    messages = asked.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal("messages: expected a list of at least one")
    limits = [asked.get(key) for key in ("max_completion_tokens", "max_tokens")]
    limit = next((one for one in limits if one is not None), None)
    if limit is not None and not (isinstance(limit, int) and limit > 0):
        raise Refusal(f"max_tokens={limit}: expected a number of at least 1")
    options = asked.get("stream_options") or {}
    return ChatRequest(
        messages=tuple(_message(one, place) for place, one in enumerate(messages)),
        tools=() if asked.get("tool_choice") == "none" else _tools(asked.get("tools")),
        max_tokens=limit,
        streams=bool(asked.get("stream")),
        streams_usage=isinstance(options, dict) and bool(options.get("include_usage")),
    )


def completion(answer: ChatAnswer, model: str) -> dict[str, Any]:
    """The answer as one object."""
    choice = {"index": 0, "message": answer.message, "finish_reason": answer.finish_reason}
    return {
        **_head("chat.completion", model),
        "choices": [{**choice, "logprobs": None}],
        "usage": answer.usage,
    }


def chunks(answer: ChatAnswer, model: str, *, with_usage: bool) -> Iterator[dict[str, Any]]:
    """The answer as a stream has it, in as few parts as there can be."""
    head = _head("chat.completion.chunk", model)
    message = answer.message
    calls = [{"index": place, **one} for place, one in enumerate(message.pop("tool_calls", ()))]
    delta = {**message, **({"tool_calls": calls} if calls else {})}
    for part, finish in ((delta, None), ({}, answer.finish_reason)):
        yield {**head, "choices": [{"index": 0, "delta": part, "finish_reason": finish}]}
    if with_usage:
        yield {**head, "choices": [], "usage": answer.usage}


def _head(kind: str, model: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def _check_can_do(asked: Mapping[str, Any]) -> None:
    expected: dict[str, tuple[Any, ...]] = {
        "n": (None, 1),
        "stop": (None, []),  # Servers have no tokenizer.
        "tool_choice": (None, "auto", "none"),
        "response_format": (None, {"type": "text"}),
        "logprobs": (None, False),
    }
    for key, values in expected.items():
        if asked.get(key) not in values:
            found = json.dumps(asked[key])[:80]
            raise Refusal(f"{key}={found}: not to be had here, expected none", code="unsupported")


def _message(found: Any, place: int) -> dict[str, Any]:
    name = f"messages[{place}]"
    if not isinstance(found, dict) or found.get("role") not in _ROLES:
        raise Refusal(f"{name}: expected an object with a role of {', '.join(_ROLES)}")
    role = "system" if found["role"] == "developer" else found["role"]
    message = {"role": role, "content": _text(found.get("content"), f"{name}.content")}
    if role == "assistant" and found.get("tool_calls"):
        message["tool_calls"] = _calls(found["tool_calls"], f"{name}.tool_calls")
    return message


def _text(content: Any, name: str) -> str:
    match content:
        case None:
            return ""
        case str():
            text = content
        case [*parts] if all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in parts):
            text = "".join(part["text"] for part in parts)
        case _:
            raise Refusal(f"{name}: expected text, or parts of text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refusal(f"{name}: is no valid Unicode") from None
    return text


def _calls(found: Any, name: str) -> list[dict[str, Any]]:
    """With arguments as values: clients may write the same JSON in another way."""
    calls = []
    for one in found if isinstance(found, list) else [None]:
        match one:
            case {"function": {"name": str(called), "arguments": str(arguments)}}:
                try:
                    values = json.loads(arguments)
                except (ValueError, RecursionError):
                    raise Refusal(f"{name}: arguments that are no JSON") from None
                function = {"name": called, "arguments": values}
                calls.append({"type": "function", "function": function})
            case _:
                raise Refusal(f"{name}: expected functions, each with a name and arguments")
    return calls


def _tools(found: Any) -> tuple[dict[str, Any], ...]:
    match found:
        case None:
            return ()
        case [*tools] if all(_is_function(tool) for tool in tools):
            return tuple({"type": "function", "function": tool["function"]} for tool in tools)
    raise Refusal("tools: expected functions, each with a name")


def _is_function(tool: Any) -> bool:
    match tool:
        case {"type": "function", "function": {"name": str()}}:
            return True
    return False


def as_it_comes_back(messages: Sequence[Mapping[str, Any]], answer: ChatAnswer) -> tuple[Any, ...]:
    """What a client's next request has to begin with: what it asked, and the answer."""
    return (*messages, _message(answer.message, len(messages)))
