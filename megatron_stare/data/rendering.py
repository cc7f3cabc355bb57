"""Chat templates, rendered where they can do no harm.

A template is a program that comes with a model. Jinja's sandbox keeps it from files and from the
interpreter, not from looping or from building texts of gigabytes; so it runs in a process of its
own, which the kernel ends when it has used up its computing time or its memory.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerFast

from megatron_stare.data.tables import UnusableRow
from megatron_stare.errors import UserError, without_surrogates
from megatron_stare.system import stop_signals
from megatron_stare.system.memory_limit import limit_memory

_SECONDS, _SECONDS_A_CHAT = 3.0, 0.03
_MEMORY_BYTES = 2**30
_MAX_CHARACTERS = 2**24
_REASON_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation to render.

    name      of where it is from, for messages
    messages  with `role` and `content`
    is_asked  whether an answer is to follow: the template adds the beginning of one
    """

    name: str
    messages: list[dict[str, Any]]
    is_asked: bool = True


def render_chats(
    tokenizer: PreTrainedTokenizerFast,
    chats: Sequence[Chat],
    tools: Sequence[dict[str, Any]] = (),
) -> list[str | UnusableRow]:
    """The text of each conversation by the tokenizer's chat template, or why it has none.

    Args:
        tools: schemas of what may be called, for the template to write.

    Raises:
        UserError: the template is malformed, or takes more computing time or memory than any
            prompt needs.
    """
    if not chats:
        return []
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_render_all, args=(sender, tokenizer, chats, tools), daemon=True)
    with stop_signals.kept_from_children():
        process.start()
    sender.close()
    texts: list[str | UnusableRow] = []
    problem = None
    try:
        while len(texts) < len(chats) and problem is None:
            text, reason, problem = receiver.recv()
            if problem is None:
                texts.append(UnusableRow(reason) if text is None else text)
    except (EOFError, OSError):
        problem = _how_it_ended(process)
    finally:
        process.kill()
        process.join()
        receiver.close()
    if problem is not None:
        name = chats[len(texts)].name
        raise UserError(f"the chat template of {tokenizer.name_or_path!r} {problem} (at {name})")
    return texts


def _how_it_ended(process: Any) -> str:
    process.join()
    if process.exitcode == -signal.SIGPROF:
        return (
            f"takes more than {_SECONDS:g} s of computing and {_SECONDS_A_CHAT:g} s a "
            "conversation, expected one that ends"
        )
    return f"ended its process (exit code {process.exitcode}), expected one that renders a prompt"


def _render_all(
    sender: Connection,
    tokenizer: PreTrainedTokenizerFast,
    chats: Sequence[Chat],
    tools: Sequence[dict[str, Any]],
) -> None:
    """In the process: send (text, reason, problem) of each, of which one is given."""
    stop_signals.ignore()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    limit_memory(_MEMORY_BYTES)
    signal.setitimer(signal.ITIMER_PROF, _SECONDS)
    for chat in chats:
        left, _ = signal.getitimer(signal.ITIMER_PROF)
        signal.setitimer(signal.ITIMER_PROF, left + _SECONDS_A_CHAT)
        sender.send(_render(tokenizer, chat, tools))


def _render(
    tokenizer: PreTrainedTokenizerFast, chat: Chat, tools: Sequence[dict[str, Any]]
) -> tuple[str | None, str | None, str | None]:
    try:
        text = tokenizer.apply_chat_template(
            chat.messages,
            tools=list(tools) or None,
            tokenize=False,
            add_generation_prompt=chat.is_asked,
        )
    except MemoryError:
        return None, None, f"takes more than {_MEMORY_BYTES / 2**30:g} GiB of memory"
    except TemplateSyntaxError as error:
        return None, None, f"is malformed: {_brief(error)}"
    except TemplateError as error:
        return None, f"the chat template refuses: {_brief(error)}", None
    except Exception as error:
        return None, f"the chat template fails: {type(error).__name__}: {_brief(error)}", None
    if not isinstance(text, str):
        return None, f"the chat template gives a {type(text).__name__}, expected text", None
    if len(text) > _MAX_CHARACTERS:
        return None, f"the chat template makes more than {_MAX_CHARACTERS} characters", None
    return text, None, None


def _brief(error: Exception) -> str:
    """On one line, with nothing that a message could not hold."""
    text = " ".join(str(error).split())[:_REASON_CHARACTERS]
    return without_surrogates(text)
