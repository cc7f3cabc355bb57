"""Which tokens end a response."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from megatron_stare.data.tokenizer import eos_token_id
from megatron_stare.errors import UserError
from megatron_stare.system.json_file import read_object

CONFIG_FILES = ("config.json", "generation_config.json")
"""Where a model folder may say `eos_token_id`: one, or a list."""


def stop_token_ids(
    folder: Path, tokenizer: PreTrainedTokenizerFast, *, turn_ends: Iterable[int] = ()
) -> tuple[int, ...]:
    """All ids at which responses end, ascending: the keys of `stop_token_sources`.

    >>> stop_token_ids(Path("models/Llama-3.1-8B-Instruct"), tokenizer)  # doctest: +SKIP
    (128001, 128008, 128009)
    """
    return tuple(stop_token_sources(folder, tokenizer, turn_ends=turn_ends))


def find_stop_ids(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    turn_ends: Iterable[int],
    report: Callable[[str], None],
) -> tuple[int, ...]:
    """The ids at which a response ends, of which a person is told whence each is.

    Raises as `stop_token_sources`.
    """
    sources = stop_token_sources(folder, tokenizer, turn_ends=turn_ends)
    report(describe_stop_tokens(sources, tokenizer))
    return tuple(sources)


def stop_token_sources(
    folder: Path, tokenizer: PreTrainedTokenizerFast, *, turn_ends: Iterable[int] = ()
) -> dict[int, list[str]]:
    """Who says of a token that responses end with it, by token id, ascending.

    Args:
        folder: with a config.json and a generation_config.json, or without.
        turn_ends: what the chat template ends a turn with, where one is used.

    Raises:
        UserError: the tokenizer has no end of sequence, or one of the two files is malformed or has
            an `eos_token_id` that is no token of the model.
    """
    said = [("tokenizer", [eos_token_id(tokenizer)])]
    there = [name for name in CONFIG_FILES if (folder / name).exists(follow_symlinks=False)]
    contents = {name: read_object(folder / name, "a model's config") for name in there}
    vocab_size = _vocab_size(contents.get("config.json", {}), tokenizer)
    for name, content in contents.items():
        said.append((name, _eos_ids(folder / name, content.get("eos_token_id"), vocab_size)))
    said.append(("chat template", list(turn_ends)))
    ids = sorted({token for _, tokens in said for token in tokens})
    return {token: [name for name, tokens in said if token in tokens] for token in ids}


def describe_stop_tokens(sources: dict[int, list[str]], tokenizer: PreTrainedTokenizerFast) -> str:
    """One line for the start of a run: each token's id, its text, and who says so."""
    texts = tokenizer.convert_ids_to_tokens(list(sources))
    return "responses end with " + ", ".join(
        f"{token} {text or 'no text'} ({', '.join(names)})"
        for (token, names), text in zip(sources.items(), texts, strict=True)
    )


def _vocab_size(config: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> int:
    """Ids of the model, which may have more than its tokenizer; without a model the tokenizer's."""
    found = config.get("vocab_size")
    if isinstance(found, int) and not isinstance(found, bool):
        return found
    return max(tokenizer.get_vocab().values()) + 1


def _eos_ids(path: Path, found: Any, vocab_size: int) -> list[int]:
    ids = found if isinstance(found, list) else [] if found is None else [found]
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
            raise UserError(
                f"{path}: eos_token_id={found!r:.200}, expected a token id or a list of them, "
                f"each from 0 to {vocab_size - 1}"
            )
    return ids
