"""Sampling from a Hugging Face folder: problems, engine and verifier of commands without a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from rich.console import Console

from megatron_stare.config.algorithm import RewardConfig
from megatron_stare.config.data import DataConfig
from megatron_stare.config.policy import ModelConfig
from megatron_stare.data.prompts import PromptSet
from megatron_stare.data.tokenizer import check_vocabulary, load_tokenizer
from megatron_stare.engines.embedded import EmbeddedEngine
from megatron_stare.launch.topology import read_topology
from megatron_stare.observe.console import print_line
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.rollout.stop_tokens import describe_stop_tokens, stop_token_sources
from megatron_stare.weights.hf_config import read_hf_config


@dataclass(frozen=True, slots=True)
class FolderRollouts:
    """What samples come from, and who judges them."""

    problems: PromptSet
    engine: EmbeddedEngine
    scorer: Scorer


@contextmanager
def open_folder_rollouts(
    model: ModelConfig,
    data: DataConfig,
    reward: RewardConfig,
    console: Console,
    *,
    seed: int,
    max_batch_sequences: int,
    max_response_tokens: int,
) -> Iterator[FolderRollouts]:
    """The embedded engine with a folder's weights, version 0, beside problems and verifiers.

    Raises:
        UserError: bad input.
    """
    shape = read_hf_config(model.path)
    tokenizer = load_tokenizer(model.path)
    check_vocabulary(tokenizer, shape.vocab_size)
    problems = PromptSet(data, tokenizer, seed=seed)
    print_line(console, str(problems.report))
    sources = stop_token_sources(model.path, tokenizer, turn_ends=problems.form.turn_ends)
    print_line(console, describe_stop_tokens(sources, tokenizer))
    engine = EmbeddedEngine(
        model.path,
        tokenizer,
        device=read_topology().device,
        dtype=getattr(torch, model.dtype),
        max_batch_sequences=max_batch_sequences,
        stop_ids=sources,
    )
    engine.load_weights(model.path, version=0)
    scorer = Scorer(
        reward,
        max_response_tokens=max_response_tokens,
        prefill=problems.form.prefill,
        report=lambda text: print_line(console, text),
    )
    with scorer:
        yield FolderRollouts(problems, engine, scorer)
