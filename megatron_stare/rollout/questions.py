"""What is asked of a policy: problems in its words, and the tools or environments they are for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.data import DataConfig
from megatron_stare.config.evaluation import FolderConfig
from megatron_stare.config.workflow import WorkflowConfig
from megatron_stare.data.prompts import PromptSet
from megatron_stare.data.sources import check_lengths, open_prompt_sets
from megatron_stare.data.tasks import versions_of
from megatron_stare.data.tokenizer import check_vocabulary, load_tokenizer
from megatron_stare.engines.engine import ContinuingEngine, Engine
from megatron_stare.environments.acting import Acting
from megatron_stare.model_shape import ModelShape
from megatron_stare.rollout.agents.chat_form import ChatForm, chat_form_of
from megatron_stare.rollout.stop_tokens import find_stop_ids
from megatron_stare.rollout.workflow.opening import (
    environments_of,
    open_tools,
    player_on,
    prompt_tools,
    workflow_of,
)
from megatron_stare.rollout.workflow.toolbox import Toolbox
from megatron_stare.rollout.workflow.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Questions:
    """Problems, and what plays them.

    sets      of problems, by key of the config, and by source
    prefill   what the template has begun a response with
    versions  of what else samples depend on: code of environments, packages that make problems
    """

    tokenizer: PreTrainedTokenizerFast
    stop_ids: tuple[int, ...]
    toolbox: Toolbox
    acting: Acting | None
    chats: ChatForm | None
    workflow: Workflow | None
    sets: dict[str, dict[str, PromptSet]]
    prefill: str
    versions: dict[str, str]

    def player_on(
        self, engine: ContinuingEngine, config: WorkflowConfig, report: Callable[[str], None]
    ) -> Engine:
        """What plays them on an engine.

        Raises as `workflow.opening.player_on`.
        """
        played = self.workflow, self.toolbox, self.chats, self.tokenizer
        return player_on(engine, config, *played, report)


def open_questions(
    config: FolderConfig | TrainConfig,
    data: Mapping[str, DataConfig],
    shape: ModelShape,
    opened: ExitStack,
    *,
    longest: Mapping[str, int],
    longest_worked: Mapping[str, int] | None = None,
    report: Callable[[str], None],
) -> Questions:
    """Problems by their keys, with a line on each of their sets.

    Args:
        data: at least one.
        opened: gets what is to be closed.
        longest: responses that are sampled, in tokens, by key: the model has to have room for them.
        longest_worked: worked responses that are used, in tokens, by key; all of others.

    Raises:
        UserError: bad input.
    """
    tokenizer = load_tokenizer(config.model.path)
    check_vocabulary(tokenizer, shape.vocab_size)
    acting = environments_of(config.environments, config.workflow, data)
    toolbox = open_tools(config.tools, config.workflow, acting, report)
    opened.enter_context(closing(toolbox))
    chats = chat_form_of(config.workflow.agent, tokenizer)
    sets = {
        key: open_prompt_sets(
            *(one, tokenizer),
            key=key,
            seed=config.run.seed,
            max_demonstration_tokens=(longest_worked or {}).get(key, sys.maxsize),
            tools=prompt_tools(config.workflow, toolbox),
            begin=None if acting is None else acting.rows,
            begins=None if chats is None else (chats.begins,),
        )
        for key, one in data.items()
    }
    if config.rollout.engine != "replay":  # It has responses as they are.
        for key, most in longest.items():
            check_lengths(sets[key], shape, key=key, max_response_tokens=most)
    prompts = [one for of_sources in sets.values() for one in of_sources.values()]
    for one in prompts:
        report(str(one.report))
    ends = tuple(end for one in prompts for end in one.form.turn_ends)
    ends += () if chats is None else (chats.end,)
    stop_ids = find_stop_ids(config.model.path, tokenizer, ends, report)
    workflow = workflow_of(config.workflow, toolbox, acting, tokenizer, stop_ids)
    versions = versions_of(*data.values()) | ({} if acting is None else acting.codes)
    played = toolbox, acting, chats, workflow
    return Questions(tokenizer, stop_ids, *played, sets, prompts[0].form.prefill, versions)
