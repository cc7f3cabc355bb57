"""What counts as an answer of a server's /generate, be it to continue tokens or to score them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from megatron_stare.engines.sglang import tempering


class ServerFailure(Exception):
    """A server did not answer as it should. Another one may, or the same one later."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A response: `logprobs` in nats, one a token; NaN where the server's was not finite.

    `temperatures` are empty where they were that of the request.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length", "aborted"]
    temperatures: tuple[float, ...] = ()


@contextmanager
def told_apart() -> Iterator[None]:
    """Has what cannot be read of an answer raise ServerFailure."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ServerFailure(f"not an answer of /generate ({error!r})") from None


def parse_generation(answer: Any, parameters: Mapping[str, Any], version: int) -> Generation:
    """A response to a request with these parameters, under weights `version`.

    Raises:
        ServerFailure: it is none, or of other weights.
    """
    meta = answer["meta_info"]
    token_ids = tuple(answer["output_ids"])
    logprobs = meta["output_token_logprobs"]
    if tuple(token for _, token, *_ in logprobs) != token_ids:
        raise ServerFailure("log-probs are not those of the tokens")
    if token_ids:
        for span in meta["weight_versions"]:
            check_version(span["version"], version)
    return Generation(
        token_ids=token_ids,
        logprobs=tuple(math.nan if value is None else float(value) for value, *_ in logprobs),
        finish_reason=_finish_reason(meta["finish_reason"], token_ids, parameters),
        temperatures=tempering.temperatures_of(meta, parameters, len(token_ids)),
    )


def parse_scores(answer: Any, token_ids: Sequence[int], version: int) -> Generation:
    """Given tokens with the log-probs that a server found of them.

    Raises:
        ServerFailure: they are of other tokens, or of other weights.
    """
    meta = answer["meta_info"]
    if (finish := meta["finish_reason"])["type"] == "abort":
        raise ServerFailure(f"scored nothing: {finish.get('message')}")
    found = meta["input_token_logprobs"][1:]
    # It says 0 of the last token of the vocabulary, whatever that is.
    if len(found) != len(token_ids) or any(
        said not in (token, 0) for (_, said, *_), token in zip(found, token_ids, strict=True)
    ):
        raise ServerFailure("log-probs are not those of the tokens")
    check_version(meta["weight_version"], version)
    logprobs = tuple(math.nan if value is None else float(value) for value, *_ in found)
    return Generation(tuple(token_ids), logprobs, "length")


def _finish_reason(
    finish: Mapping[str, Any], token_ids: Sequence[int], parameters: Mapping[str, Any]
) -> Literal["stop", "length", "aborted"]:
    if finish["type"] == "abort":
        # The server says so too of a response whose last token came with the abort.
        if token_ids and token_ids[-1] in parameters["stop_token_ids"]:
            return "stop"
        return "length" if len(token_ids) == parameters["max_new_tokens"] else "aborted"
    if finish["type"] == "stop" and not isinstance(finish["matched"], int):
        # No stop strings are ever sent: the server says here that its logits are broken.
        raise ServerFailure(f"generation stopped at {finish['matched']!r}, expected a stop token")
    if finish["type"] == "stop" and finish["matched"] not in parameters["stop_token_ids"]:
        raise ServerFailure(
            f"generation stopped at token {finish['matched']}, an end of the server's own; "
            f"expected one of the trainer's, {parameters['stop_token_ids']}: start it with the "
            "same model folder, or with --skip-tokenizer-init"
        )
    return finish["type"]


def check_version(found: str, expected: int) -> None:
    """See that weights are those expected. Raises ServerFailure."""
    if found != str(expected):
        raise ServerFailure(f"has weights of version {found!r}, expected '{expected}'")
