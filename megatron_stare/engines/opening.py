"""The engine that a config asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from megatron_stare.config.policy import ModelConfig
from megatron_stare.config.rollout import EngineConfig
from megatron_stare.engines.embedded import EmbeddedEngine
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.engines.sglang.engine import SGLangEngine


def open_engine(
    config: EngineConfig,
    model: ModelConfig,
    tokenizer: PreTrainedTokenizerFast,
    *,
    stop_ids: Sequence[int],
    vocab_size: int,
    device: torch.device,
    run_dir: Path,
    report: Callable[[str], None],
    moves_temperature: bool = False,
) -> ReplayEngine | EmbeddedEngine | SGLangEngine:
    """Ready to be given weights.

    Args:
        stop_ids: tokens at which responses end.
        device: of the embedded engine.
        run_dir: where weights go on their way to servers, and logs of theirs.
        moves_temperature: whether requests have a rule for it.

    Raises:
        UserError: recorded samples or servers are not there, or not of this model.
    """
    if config.replay_path is not None:
        return ReplayEngine(config.replay_path, tokenizer, vocab_size=vocab_size)
    if config.engine == "sglang":
        return SGLangEngine(
            config.servers,
            model.path,
            tokenizer,
            weights_dir=config.servers.weights_dir or run_dir / "sync",
            log_dir=run_dir,
            report=report,
            stop_ids=stop_ids,
            moves_temperature=moves_temperature,
        )
    return EmbeddedEngine(
        model.path,
        tokenizer,
        device=device,
        dtype=getattr(torch, model.dtype),
        max_batch_sequences=config.max_batch_sequences,
        stop_ids=stop_ids,
    )
