"""Whether a server means by token ids what the trainer means by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from megatron_stare.data.probes import encodable, first_difference, probes_of
from megatron_stare.data.tokenizer import load_tokenizer
from megatron_stare.engines.sglang.answers import ServerFailure
from megatron_stare.engines.sglang.client import Server
from megatron_stare.errors import UserError


async def check_tokenizer(
    server: Server,
    info: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerFast,
    *,
    deadline_s: float,
) -> None:
    """See that the server's tokenizer encodes the probes as the trainer's does.

    A server without one, as `megatron-stare serve` starts them, is asked for none: the folder that
    it names is read, where this machine has it.

    Args:
        info: what it answered to /server_info.

    Raises:
        UserError: its tokenizer is another.
        ServerFailure: no answer in time, or not a valid one.
    """
    probes, expected = encodable(
        probes_of(tokenizer.added_tokens_decoder),
        lambda text: tokenizer.encode(text, add_special_tokens=False),
    )
    found = await _encoded(server, info, list(probes.values()), deadline_s)
    if found is None:
        return
    if difference := first_difference(probes, found, expected):
        raise UserError(
            f"{server.url}: has another tokenizer ({info.get('tokenizer_path')}) than the trainer "
            f"({tokenizer.name_or_path}); {difference}"
        )


async def _encoded(
    server: Server, info: Mapping[str, Any], texts: list[str], deadline_s: float
) -> Sequence[Sequence[int]] | None:
    if info.get("skip_tokenizer_init"):
        folder = Path(str(info.get("tokenizer_path")))
        if not (folder / "tokenizer.json").is_file():
            return None
        return load_tokenizer(folder)(texts, add_special_tokens=False)["input_ids"]
    body = {"prompt": texts, "add_special_tokens": False}
    answer = await server.call("POST", "/tokenize", body, deadline_s=deadline_s)
    tokens = answer.get("tokens") if isinstance(answer, dict) else None
    if not isinstance(tokens, list) or [*map(type, tokens)] != [list] * len(texts):
        raise ServerFailure("not an answer of /tokenize")
    return tokens
