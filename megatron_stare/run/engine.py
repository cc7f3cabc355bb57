"""The engine of a run, as its config says."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from megatron_stare.config.commands import TrainConfig
from megatron_stare.engines.embedded import EmbeddedEngine
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.engines.sglang.engine import SGLangEngine
from megatron_stare.run.session import World


def build_engine(
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Sequence[int],
    world: World,
) -> ReplayEngine | EmbeddedEngine | SGLangEngine:
    """Ready to be given weights.

    Args:
        stop_ids: tokens at which responses end.

    Raises:
        UserError: recorded samples or servers are not there, or not of this model.
    """
    if config.rollout.replay_path is not None:
        return ReplayEngine(
            config.rollout.replay_path, tokenizer, vocab_size=world.shape.vocab_size
        )
    if config.rollout.engine == "sglang":
        engine = SGLangEngine(
            config.rollout.servers,
            config.model.path,
            tokenizer,
            weights_dir=config.rollout.servers.weights_dir or config.run.dir / "sync",
            log_dir=config.run.dir,
            report=world.loggers.message,
            stop_ids=stop_ids,
            moves_temperature=config.algorithm.first_drawing.rule is not None,
        )
        if config.rollout.colocated:
            engine.give_up_memory()
        return engine
    return EmbeddedEngine(
        config.model.path,
        tokenizer,
        device=world.topology.device,
        dtype=getattr(torch, config.model.dtype),
        max_batch_sequences=config.rollout.max_batch_sequences,
        stop_ids=stop_ids,
    )
