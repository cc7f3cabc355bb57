"""Which tokens end a response."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from megatron_stare.data.tokenizer import eos_token_id
from megatron_stare.errors import UserError


def stop_token_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokenizer's end of sequence, and those that generation_config.json adds, ascending.

    Raises:
        UserError: the tokenizer has no end of sequence, or generation_config.json is malformed.
    """
    return tuple(sorted({eos_token_id(tokenizer), *_generation_eos_ids(folder)}))


def _generation_eos_ids(folder: Path) -> list[int]:
    path = folder / "generation_config.json"
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except (ValueError, AttributeError):
        raise UserError(f"{path}: malformed, expected a JSON object") from None
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(isinstance(token, int) for token in ids):
        raise UserError(f"{path}: eos_token_id={found!r}, expected a token id or a list of them")
    return ids
