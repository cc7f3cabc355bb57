"""A model out of a Megatron-Core checkpoint, whatever layout wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from megatron_stare.config.policy import ModelConfig, ParallelConfig
from megatron_stare.policy.groups import ParallelGroups, build_groups, destroy_groups
from megatron_stare.policy.head import HeadInputs, logprob_entropy_head
from megatron_stare.policy.loading import load_sharded
from megatron_stare.policy.model import build_model
from megatron_stare.policy.packed import pack
from megatron_stare.policy.sharded_state import load_parameters, sharded_parameters
from megatron_stare.weights.hf_config import read_hf_config


def load_model(chunks: Sequence[MegatronModule], folder: Path) -> None:
    """Fill the chunks of this rank's stage in place, casting to their dtype. Collective.

    Raises:
        UserError: a file holds more than data, or is damaged.
    """
    wanted = {f"chunk {n}": sharded_parameters(chunk) for n, chunk in enumerate(chunks)}
    state = load_sharded({**wanted}, folder)
    for name, chunk in zip(wanted, chunks, strict=True):
        load_parameters(chunk, state[name])


@torch.no_grad()
def checkpoint_logprobs(
    folder: Path, hf: Path, sequences: Sequence[Tensor], *, device: torch.device
) -> list[Tensor]:
    """Log-probs in nats of all tokens but the first of each sequence, float32.

    In a world of this process alone, which is initialised: float32 on CPUs, bfloat16 on GPUs.

    Args:
        folder: a checkpoint.
        hf: a folder with its config.json.
        sequences: int64 `[n]` each, n > 1.
    """
    dtype = "float32" if device.type == "cpu" else "bfloat16"
    parallel, shape = ParallelConfig(), read_hf_config(hf)
    groups = build_groups(parallel)
    (model,) = build_model(shape, ModelConfig(path=hf, dtype=dtype), parallel, groups, seed=0)
    load_model([model], folder)
    logprobs = [_logprobs(model.to(device).eval(), tokens, groups, device) for tokens in sequences]
    destroy_groups()
    return logprobs


def _logprobs(
    model: MegatronModule, tokens: Tensor, groups: ParallelGroups, device: torch.device
) -> Tensor:
    packed = pack([tokens], [1], pad_to_multiple=groups.sequence_multiple, device=device)
    scores = model(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        attention_mask=None,
        packed_seq_params=packed.packed_seq_params,
        output_processor=logprob_entropy_head,
        output_processor_context=HeadInputs(packed, 1.0, groups.cp),
    )
    return scores.logprobs.float().cpu()
