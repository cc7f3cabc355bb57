"""Batched decoding of a transformers model: prefill what is shared once, then a token a step.

Legend: P prefixes, N sequences (one prefix may have several), n <= N sequences still running, L
length of the longest prefix, M of the longest rest, S length so far of the padded sequences, V
vocabulary. Prefixes and rests are padded on the left, so that the running sequences all end in the
same column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.kv_cache import KvCache
from megatron_stare.engines.next_token import Drawn, draw_tokens
from megatron_stare.ops.entropy_temperature import EntropyTemperature

ATTENTION = "grouped_query_decode"


@dataclass(frozen=True, slots=True)
class ToDecode:
    """A sequence to be continued.

    prefix      place of its prefix among those shared
    rest        tokens that it has behind the prefix
    max_tokens  at most so many new ones, at least 1
    stop_ids    tokens that end it; they are part of it
    """

    prefix: int
    rest: Sequence[int]
    max_tokens: int
    stop_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A sequence that has ended, by its place: its new tokens.

    The log-prob and the temperature of each token are with it.
    """

    sequence: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    temperatures: tuple[float, ...]
    finish_reason: Literal["stop", "length", "aborted"]


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    prefixes: Sequence[Sequence[int]],
    sequences: Sequence[ToDecode],
    uniforms: Tensor,
    sampling: SamplingConfig,
    is_interrupted: Callable[[], bool] = lambda: False,
    rule: EntropyTemperature | None = None,
) -> Iterator[Decoded]:
    """Continue sequences; yield them as they end, and as they stand where decoding is interrupted.

    Args:
        model: a causal language model with attention implementation `ATTENTION`.
        prefixes: token ids of P prefixes.
        uniforms: float64 `[N, most new tokens]` in [0, 1), on the model's device: the randomness of
            each token.
        rule: moves the temperature of each token.
    """
    device = uniforms.device
    cache = KvCache()
    logits, hidden = prefill(model, prefixes, cache, device)
    logits = logits[:, 0]
    rows = torch.tensor([sequence.prefix for sequence in sequences], device=device)
    cache.expand(rows)
    logits, hidden = logits[rows], hidden[rows]
    if any(sequence.rest for sequence in sequences):
        rests = [sequence.rest for sequence in sequences]
        logits, hidden = _append(model, rests, cache, logits, hidden)

    limits = torch.tensor([sequence.max_tokens for sequence in sequences], device=device)
    stops, stops_of = _stop_table(sequences, logits)
    running = torch.arange(len(sequences), device=device)
    token_ids = torch.empty(uniforms.shape, dtype=torch.int64, device=device)
    logprobs = torch.empty(uniforms.shape, dtype=torch.float32, device=device)
    kept = Drawn(token_ids, logprobs, torch.empty_like(logprobs))
    for step in range(uniforms.shape[1]):
        drawn = draw_tokens(logits, uniforms[running, step], sampling, rule)
        for column, new in zip(kept, drawn, strict=True):
            column[running, step] = new
        tokens = drawn.tokens
        stopped = stops[stops_of[running], tokens]
        ended = stopped | (limits[running] == step + 1)
        if ended.any():
            yield from _finished(running[stopped], kept, step + 1, "stop")
            yield from _finished(running[ended & ~stopped], kept, step + 1, "length")
            stay = _compact(cache, ended)
            running, tokens, hidden = running[stay], tokens[stay], hidden[stay]
        if len(running) == 0:
            return
        if is_interrupted():
            yield from _finished(running, kept, step + 1, "aborted")
            return
        logits = _next_logits(model, tokens, cache, hidden)


def _stop_table(sequences: Sequence[ToDecode], logits: Tensor) -> tuple[Tensor, Tensor]:
    """Which tokens end a sequence, bool `[kinds, V]`, and the kind of each sequence, `[N]`."""
    kinds = list(dict.fromkeys(sequence.stop_ids for sequence in sequences))
    table = torch.zeros(len(kinds), logits.shape[-1], dtype=torch.bool, device=logits.device)
    for row, stop_ids in zip(table, kinds, strict=True):
        row[torch.tensor(stop_ids, dtype=torch.int64, device=logits.device)] = True
    place = {kind: place for place, kind in enumerate(kinds)}
    return table, torch.tensor([place[s.stop_ids] for s in sequences], device=logits.device)


def grouped_query_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' models call it, with no copies of keys and values when decoding.

    query `[n, heads, queries, head_dim]`, key and value `[n, kv heads, S, head_dim]`. With a single
    query per sequence, the query heads that share a key head are like queries of one head.
    """
    if query.shape[2] > 1:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    n, heads, _, head_dim = query.shape
    grouped = query.view(n, key.shape[1], -1, head_dim)
    attended = F.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=scaling
    )
    return attended.reshape(n, 1, heads, head_dim), None


def register_attention() -> None:
    """Make `ATTENTION` known to transformers."""
    AttentionInterface.register(ATTENTION, grouped_query_attention)


def prefill(
    model: PreTrainedModel,
    prefixes: Sequence[Sequence[int]],
    cache: KvCache | None,
    device: torch.device,
    num_last: int = 1,
) -> tuple[Tensor, Tensor]:
    """Fill the cache; what is padding, bool `[P, L]`.

    With it logits `[P, num_last, V]` behind the last tokens of each prefix.
    """
    token_ids, hidden = _padded(prefixes, device)
    column = torch.arange(token_ids.shape[1], device=device)
    visible = (column <= column[:, None]) & ~hidden[:, None]
    # A padding column sees itself: attending to nothing would leave NaNs in the cache.
    visible = visible | torch.eye(len(column), dtype=torch.bool, device=device)
    output = model(
        input_ids=token_ids,
        attention_mask=visible[:, None],
        position_ids=(column - hidden.sum(1, keepdim=True)).clamp(min=0),
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=num_last,
    )
    return output.logits, hidden


def _append(
    model: PreTrainedModel,
    rests: Sequence[Sequence[int]],
    cache: KvCache,
    logits: Tensor,
    hidden: Tensor,
) -> tuple[Tensor, Tensor]:
    """Append to each of N sequences what it has behind its prefix, perhaps nothing.

    Returns logits `[N, V]` after them, and what is padding, bool `[N, L + M]`.
    """
    token_ids, more_hidden = _padded(rests, logits.device)
    length, num_new = hidden.shape[1], token_ids.shape[1]
    hidden = torch.cat([hidden, more_hidden], dim=1)
    column = torch.arange(length + num_new, device=logits.device)
    new = column[length:]
    output = model(
        input_ids=token_ids,
        attention_mask=((column <= new[:, None]) & ~hidden[:, None])[:, None],
        position_ids=((~hidden).cumsum(1)[:, length:] - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    has_rest = ~more_hidden[:, -1:]
    return torch.where(has_rest, output.logits[:, 0], logits), hidden


def _padded(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids int64 `[rows, longest]`, and which are padding, on the left."""
    length = max(len(sequence) for sequence in sequences)
    token_ids = torch.zeros(len(sequences), length, dtype=torch.int64)
    hidden = torch.ones(len(sequences), length, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        start = length - len(sequence)
        token_ids[row, start:] = torch.tensor(sequence, dtype=torch.int64)
        hidden[row, start:] = False
    return token_ids.to(device), hidden.to(device)


def _next_logits(model: PreTrainedModel, tokens: Tensor, cache: KvCache, hidden: Tensor) -> Tensor:
    """Append a token `[n]` to every running sequence; logits `[n, V]` of the one after."""
    position = cache.get_seq_length()
    mask = torch.zeros(len(tokens), position + 1, dtype=model.dtype, device=tokens.device)
    mask[:, : hidden.shape[1]].masked_fill_(hidden, -torch.inf)
    output = model(
        input_ids=tokens[:, None],
        attention_mask=mask[:, None, None],
        position_ids=position - hidden.sum(1, keepdim=True),
        past_key_values=cache,
        use_cache=True,
    )
    return output.logits[:, 0]


def _compact(cache: KvCache, ended: Tensor) -> Tensor:
    """Take ended rows out of the cache; returns which old row each remaining one was, `[n]`.

    Only rows behind the new end move, so that no more rows are copied than leave.
    """
    num_rows = int((~ended).sum())
    holes = ended[:num_rows].nonzero()[:, 0]
    movers = num_rows + (~ended[num_rows:]).nonzero()[:, 0]
    cache.compact(holes, movers, num_rows)
    stay = torch.arange(num_rows, device=ended.device)
    stay[holes] = movers
    return stay


def _finished(
    sequences: Tensor, kept: Drawn, length: int, finish_reason: Literal["stop", "length", "aborted"]
) -> Iterator[Decoded]:
    rows = (column[sequences, :length].tolist() for column in kept)
    for sequence, *parts in zip(sequences.tolist(), *rows, strict=True):
        token_ids, logprobs, temperatures = (tuple(part) for part in parts)
        yield Decoded(sequence, token_ids, logprobs, temperatures, finish_reason)
