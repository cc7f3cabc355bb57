"""Reading recorded samples: dumps (`dump.py`), or samples of any other origin.

The least a line of the file must hold is

    {"prompt": "the rendered prompt", "response": "the text"}
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import PreTrainedTokenizerFast

from megatron_stare.data.tokenizer import eos_token_id
from megatron_stare.errors import UserError
from megatron_stare.system.reading import open_file
from megatron_stare.turns import Turn

Ended = Literal["stop", "length", "turns", "seconds", "void", "failed"]
"""A `FinishReason` of what has ended."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded response; the sequences have one entry per token, as in `Sample`.

    `temperatures` has none where no token had one of its own.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    loss_mask: tuple[bool, ...]
    temperatures: tuple[float, ...]
    finish_reason: Ended
    seconds: float
    turns: tuple[Turn, ...]


class _Line(BaseModel):
    """What is read of a line; other fields are not."""

    model_config = ConfigDict(strict=True)

    prompt: str
    response: str
    token_ids: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """By default the tokens of the text, and the end of sequence after a `stop`."""
    logprobs: tuple[float | None, ...] | None = None
    """In nats; unknown where null."""
    loss_mask: tuple[bool, ...] | None = None
    """By default the policy chose every token."""
    temperatures: tuple[Annotated[float, Field(gt=0, le=1e6)] | None, ...] | None = None
    """By default that of the sampling, as where null."""
    finish_reason: Ended = "stop"
    turns: tuple[Turn, ...] = ()
    """By default all of it is one turn of the policy."""
    seconds: Annotated[float, Field(allow_inf_nan=False)] = 0.0


def read_recordings(
    path: Path, tokenizer: PreTrainedTokenizerFast, *, vocab_size: int
) -> dict[str, list[Recording]]:
    """The recorded responses to each rendered prompt, in the file's order.

    Raises:
        UserError: no such file, nothing in it, or a line that is not a recorded sample in a
            vocabulary of `vocab_size` tokens.
    """
    recordings: dict[str, list[Recording]] = {}
    for place, text in _lines(path):
        line = _parse(text, place)
        recording = _recording(line, tokenizer)
        _check(recording, vocab_size, place)
        recordings.setdefault(line.prompt, []).append(recording)
    if not recordings:
        raise UserError(f"{path}: is empty, expected a recorded sample a line")
    return recordings


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, each with its `file:line`."""
    try:
        # Only a line feed ends a line: texts may hold other characters that Unicode calls newlines.
        with open_file(path, "r", encoding="utf-8-sig", newline="\n") as file:
            for number, text in enumerate(file, start=1):
                if text.strip():
                    yield f"{path}:{number}", text
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read recorded samples ({error})") from None


def _parse(text: str, place: str) -> _Line:
    try:
        return _Line.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{place}: not a recorded sample; {field + ': ' if field else ''}{first['msg']}"
        ) from None


def _recording(line: _Line, tokenizer: PreTrainedTokenizerFast) -> Recording:
    token_ids = line.token_ids
    if token_ids is None:
        end = [eos_token_id(tokenizer)] if line.finish_reason == "stop" else []
        token_ids = (*tokenizer.encode(line.response, add_special_tokens=False), *end)
    unknown = (None,) * len(token_ids)
    logprobs = line.logprobs if line.logprobs is not None else unknown
    return Recording(
        text=line.response,
        token_ids=token_ids,
        logprobs=_known(logprobs),
        loss_mask=line.loss_mask if line.loss_mask is not None else (True,) * len(token_ids),
        temperatures=_known(line.temperatures or ()),
        finish_reason=line.finish_reason,
        seconds=line.seconds,
        turns=line.turns,
    )


def _known(values: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(math.nan if value is None else value for value in values)


def _check(recording: Recording, vocab_size: int, place: str) -> None:
    token_ids = recording.token_ids
    if not token_ids:
        raise UserError(f"{place}: the response has no tokens, expected at least one")
    if max(token_ids) >= vocab_size:
        raise UserError(
            f"{place}: token id {max(token_ids)} is outside the model's vocabulary, "
            f"expected ids below {vocab_size}"
        )
    if math.inf in recording.logprobs or -math.inf in recording.logprobs:
        raise UserError(f"{place}: logprobs hold an infinite one, expected finite ones or null")
    temperatures = recording.temperatures or (1.0,) * len(token_ids)
    for name, values in (
        ("logprobs", recording.logprobs),
        ("loss_mask", recording.loss_mask),
        ("temperatures", temperatures),
    ):
        if len(values) != len(token_ids):
            raise UserError(
                f"{place}: {len(values)} {name} for {len(token_ids)} tokens, expected one a token"
            )
    _check_turns(recording.turns, len(token_ids), place)


def _check_turns(turns: tuple[Turn, ...], num_tokens: int, place: str) -> None:
    bounds = [0, *(turn.end for turn in turns)]
    if turns and (bounds != sorted(bounds) or bounds[-1] != num_tokens):
        raise UserError(f"{place}: turns end at {bounds[1:]}, expected them to cover {num_tokens}")
    for turn, start in zip(turns, bounds, strict=False):
        if turn.start != start:
            raise UserError(f"{place}: a turn starts at {turn.start}, expected {start}")
