"""Log-probs of given tokens under a transformers model: one forward pass, nothing drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from megatron_stare.engines.decoding import prefill
from megatron_stare.engines.engine import Score


@torch.inference_mode()
def token_logprobs(
    model: PreTrainedModel, scores: Sequence[Score], device: torch.device
) -> list[tuple[float, ...]]:
    """Of each score, at temperature 1, in nats, float32.

    Raises:
        FloatingPointError: a token has no distribution: a logit is NaN, or +inf.
    """
    nums = [len(score.token_ids) - score.start for score in scores]
    before = [score.token_ids[:-1] for score in scores]
    logits, _ = prefill(model, before, None, device, max(nums))
    found: list[tuple[float, ...]] = []
    for score, num, row in zip(scores, nums, logits, strict=True):
        tokens = torch.tensor(score.token_ids[score.start :], device=device)
        logprobs = row[-num:].float().log_softmax(-1)
        own = logprobs.gather(-1, tokens[:, None])[:, 0]
        if own.isnan().any():
            raise FloatingPointError("a logit is not finite")
        found.append(tuple(own.tolist()))
    return found
