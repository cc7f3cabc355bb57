"""Sampling from a Hugging Face folder: problems, engine and verifier of commands without a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from megatron_stare.config.algorithm import RewardConfig
from megatron_stare.config.data import DataConfig
from megatron_stare.config.environments import EnvironmentsConfig
from megatron_stare.config.policy import ModelConfig
from megatron_stare.config.tools import ToolsConfig
from megatron_stare.config.workflow import WorkflowConfig
from megatron_stare.data.prompts import PromptSet
from megatron_stare.data.sources import check_lengths, in_turn, open_prompt_sets
from megatron_stare.data.tokenizer import check_vocabulary, load_tokenizer
from megatron_stare.engines.embedded import EmbeddedEngine
from megatron_stare.engines.engine import Engine
from megatron_stare.launch.topology import read_topology
from megatron_stare.observe.console import print_line
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.rollout.agents.chat_form import chat_form_of
from megatron_stare.rollout.stop_tokens import find_stop_ids
from megatron_stare.rollout.workflow.opening import (
    environments_of,
    open_tools,
    player_on,
    prompt_tools,
    workflow_of,
)
from megatron_stare.types import Prompt
from megatron_stare.weights.hf_config import read_hf_config


@dataclass(frozen=True, slots=True)
class FolderRollouts:
    """What samples come from, and who judges them; `player` is the engine, or plays turns on it."""

    sets: dict[str, PromptSet]
    player: Engine
    scorer: Scorer

    @property
    def problems(self) -> list[Prompt]:
        """All of them, the sources in turn."""
        return in_turn(self.sets)


@contextmanager
def open_folder_rollouts(
    model: ModelConfig,
    data: DataConfig,
    reward: RewardConfig,
    console: Console,
    *,
    key: str,
    seed: int,
    max_batch_sequences: int,
    max_response_tokens: int,
    workflow: WorkflowConfig,
    tools: ToolsConfig,
    environments: EnvironmentsConfig,
) -> Iterator[FolderRollouts]:
    """The embedded engine with a folder's weights, version 0, beside problems and verifiers.

    Args:
        key: of `data`, for messages.

    Raises:
        UserError: bad input.
    """
    shape, tokenizer = read_hf_config(model.path), load_tokenizer(model.path)
    check_vocabulary(tokenizer, shape.vocab_size)
    report = partial(print_line, console)
    acting = environments_of(environments, workflow, {key: data})
    toolbox = open_tools(tools, workflow, acting, report)
    with closing(toolbox):
        chats = chat_form_of(workflow.agent, tokenizer)
        sets = open_prompt_sets(
            *(data, tokenizer),
            key=key,
            seed=seed,
            tools=prompt_tools(workflow, toolbox),
            begin=None if acting is None else acting.rows,
            begins=None if chats is None else (chats.begins,),
        )
        for prompts in sets.values():
            report(str(prompts.report))
        check_lengths(sets, shape, key=key, max_response_tokens=max_response_tokens)
        form = next(iter(sets.values())).form  # Of the template, which is one for all.
        ends = form.turn_ends + (() if chats is None else (chats.end,))
        stop_ids = find_stop_ids(model.path, tokenizer, ends, report)
        played = workflow_of(workflow, toolbox, acting, tokenizer, stop_ids)
        engine = _engine(model, tokenizer, stop_ids, max_batch_sequences)
        player = player_on(engine, workflow, played, toolbox, chats, tokenizer, report)
        scorer = Scorer(
            *(reward, {key: data}),
            max_response_tokens=max_response_tokens,
            prefill=form.prefill,
            report=report,
        )
        with closing(player), scorer:
            yield FolderRollouts(sets, player, scorer)


def _engine(
    model: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: tuple[int, ...],
    max_batch_sequences: int,
) -> EmbeddedEngine:
    """With the folder's weights."""
    engine = EmbeddedEngine(
        model.path,
        tokenizer,
        device=read_topology().device,
        dtype=getattr(torch, model.dtype),
        max_batch_sequences=max_batch_sequences,
        stop_ids=stop_ids,
    )
    engine.load_weights(model.path, version=0)
    return engine
