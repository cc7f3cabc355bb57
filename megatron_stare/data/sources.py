"""The prompt sets of a run, by source."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any

from transformers import PreTrainedTokenizerFast

from megatron_stare.config.data import DataConfig, SourceConfig
from megatron_stare.data.prompts import PromptSet
from megatron_stare.data.tables import Table
from megatron_stare.data.tasks import generate_problems
from megatron_stare.model_shape import ModelShape
from megatron_stare.types import Prompt


def open_prompt_sets(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerFast,
    *,
    key: str,
    seed: int,
    max_demonstration_tokens: int = sys.maxsize,
    tools: Sequence[dict[str, Any]] = (),
    begin: Callable[[SourceConfig, str], Table] | None = None,
    begins: tuple[int, ...] | None = None,
) -> dict[str, PromptSet]:
    """A prompt set of each source, by name; of one file alone under an empty name.

    Each source has orders of its own, so that none follows another's.

    Args:
        key: of `config`, for messages: `data` or `eval.data`.
        seed: of the run.
        tools: schemas for the chat template to write.
        begin: the rows of a source that an environment generates, and of its key; needed where
            there is one.
        begins: tokens of every prompt, where an agent asks the problem in its own words.

    Raises:
        UserError: a file or a task is none to ask prompts of.
    """
    sets = {}
    for name, part in config.parts.items():
        table = None
        if part.path is None:
            generate = begin if config.sources[name].generates else generate_problems
            assert generate is not None, "whoever has environments says how they begin"
            table = generate(config.sources[name], f"{key}.sources.{name}")
        sets[name] = PromptSet(
            part,
            tokenizer,
            seed=_seed_of(seed, name) if name else seed,
            max_demonstration_tokens=max_demonstration_tokens,
            source=name,
            table=table,
            tools=tools,
            begins=begins,
        )
    return sets


def check_lengths(
    sets: dict[str, PromptSet], shape: ModelShape, *, key: str, max_response_tokens: int
) -> None:
    """See that the model has positions for a response to the longest prompt, if there is any.

    Raises:
        UserError: it has fewer.
    """
    longest = max((len(prompt.token_ids) for prompt in in_turn(sets)), default=0)
    if longest:
        shape.check_positions(
            f"{key}: the longest prompt, {longest}, + max_response_tokens={max_response_tokens}",
            longest + max_response_tokens,
        )


def in_turn(sets: dict[str, PromptSet]) -> list[Prompt]:
    """Every prompt once: the first of each source, the second of each, and so on."""
    rows = zip_longest(*(prompts.all() for prompts in sets.values()))
    return [prompt for prompt in chain.from_iterable(rows) if prompt is not None]


def _seed_of(seed: int, name: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
