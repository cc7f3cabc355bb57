"""Batched decoding of a transformers model: prefill each prompt once, then a token a step for all.

Legend: P prompts, N sequences (one prompt may have several), n <= N sequences still running, L
length of the longest prompt, S length so far of the padded sequences. Prompts are padded on the
left, so that the running sequences all end in the same column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.kv_cache import KvCache
from megatron_stare.engines.next_token import draw_tokens

ATTENTION = "grouped_query_decode"


@dataclass(frozen=True, slots=True)
class Decoded:
    """A finished sequence: its new tokens, their log-probs, and whether a stop token ended it."""

    sequence: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    is_stopped: bool


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    prompt_of: Sequence[int],
    uniforms: Tensor,
    sampling: SamplingConfig,
    stop_ids: Sequence[int],
) -> Iterator[Decoded]:
    """Continue prompts by up to `sampling.max_response_tokens` tokens each; yield as they finish.

    Args:
        model: a causal language model with attention implementation `ATTENTION`.
        prompts: token ids of P prompts.
        prompt_of: the prompt of each of the N sequences.
        uniforms: float64 `[N, max_response_tokens]` in [0, 1), on the model's device: the
            randomness of each token.
        stop_ids: tokens that end a sequence; they are part of it.
    """
    device = uniforms.device
    cache = KvCache()
    logits, padding = _prefill(model, prompts, cache, device)
    prompt_rows = torch.tensor(prompt_of, device=device)
    cache.expand(prompt_rows)
    logits, padding = logits[prompt_rows], padding[prompt_rows]

    stop_tokens = torch.tensor(stop_ids, device=device)
    running = torch.arange(len(prompt_of), device=device)
    token_ids = torch.empty(uniforms.shape, dtype=torch.int64, device=device)
    logprobs = torch.empty(uniforms.shape, dtype=torch.float32, device=device)
    for step in range(sampling.max_response_tokens):
        tokens, token_logprobs = draw_tokens(logits, uniforms[running, step], sampling)
        token_ids[running, step] = tokens
        logprobs[running, step] = token_logprobs
        stopped = torch.isin(tokens, stop_tokens)
        if stopped.any():
            done = running[stopped]
            yield from _finished(done, token_ids, logprobs, step + 1, is_stopped=True)
            stay = _compact(cache, stopped)
            running, tokens, padding = running[stay], tokens[stay], padding[stay]
        if len(running) == 0:
            return
        if step + 1 < sampling.max_response_tokens:
            logits = _next_logits(model, tokens, cache, padding)
    yield from _finished(
        running, token_ids, logprobs, sampling.max_response_tokens, is_stopped=False
    )


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


def _prefill(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], cache: KvCache, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Fill the cache; logits `[P, V]` after each prompt, and the prompts' padding, int64 `[P]`."""
    length = max(len(prompt) for prompt in prompts)
    padding = torch.tensor([length - len(prompt) for prompt in prompts])
    token_ids = torch.zeros(len(prompts), length, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        token_ids[row, length - len(prompt) :] = torch.tensor(prompt)
    token_ids, padding = token_ids.to(device), padding.to(device)

    column = torch.arange(length, device=device)
    is_token = column >= padding[:, None]
    visible = (column <= column[:, None]) & is_token[:, None]
    # A padding column sees itself: attending to nothing would leave NaNs in the cache.
    visible = visible | torch.eye(length, dtype=torch.bool, device=device)
    output = model(
        input_ids=token_ids,
        attention_mask=visible[:, None],
        position_ids=(column - padding[:, None]).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, 0], padding


def _next_logits(model: PreTrainedModel, tokens: Tensor, cache: KvCache, padding: Tensor) -> Tensor:
    """Append a token `[n]` to every running sequence; logits `[n, V]` of the one after."""
    position = cache.get_seq_length()
    column = torch.arange(position + 1, device=tokens.device)
    mask = torch.zeros(len(tokens), position + 1, dtype=model.dtype, device=tokens.device)
    mask.masked_fill_(column < padding[:, None], -torch.inf)
    output = model(
        input_ids=tokens[:, None],
        attention_mask=mask[:, None, None],
        position_ids=(position - padding)[:, None],
        past_key_values=cache,
        use_cache=True,
    )
    return output.logits[:, 0]


def _compact(cache: KvCache, stopped: Tensor) -> Tensor:
    """Take stopped rows out of the cache; returns which old row each remaining one was, `[n]`.

    Only rows behind the new end move, so that no more rows are copied than leave.
    """
    num_rows = int((~stopped).sum())
    holes = stopped[:num_rows].nonzero()[:, 0]
    movers = num_rows + (~stopped[num_rows:]).nonzero()[:, 0]
    cache.compact(holes, movers, num_rows)
    stay = torch.arange(num_rows, device=stopped.device)
    stay[holes] = movers
    return stay


def _finished(
    sequences: Tensor, token_ids: Tensor, logprobs: Tensor, length: int, *, is_stopped: bool
) -> Iterator[Decoded]:
    rows = (sequences, token_ids[sequences, :length], logprobs[sequences, :length])
    for sequence, tokens, token_logprobs in zip(*(row.tolist() for row in rows), strict=True):
        yield Decoded(sequence, tuple(tokens), tuple(token_logprobs), is_stopped)
