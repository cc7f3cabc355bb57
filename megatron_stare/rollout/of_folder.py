"""Sampling from a Hugging Face folder: problems, engine and verifier of commands without a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from megatron_stare.config.data import DataConfig
from megatron_stare.config.evaluation import FolderConfig
from megatron_stare.data.prompts import PromptSet
from megatron_stare.data.sources import check_lengths, in_turn, open_prompt_sets
from megatron_stare.data.tasks import versions_of
from megatron_stare.data.tokenizer import check_vocabulary, load_tokenizer
from megatron_stare.engines.engine import Engine
from megatron_stare.engines.opening import open_engine
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.environments.acting import Acting
from megatron_stare.launch.topology import read_topology
from megatron_stare.rewards.scorer import Scorer
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
from megatron_stare.types import Prompt
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.load import hf_weights


@dataclass(frozen=True, slots=True)
class FolderRollouts:
    """What samples come from, and who judges them; `player` is the engine, or plays turns on it.

    sets      problems by key, and by source
    versions  of what else samples depend on: code of environments, packages that make problems
    """

    sets: dict[str, dict[str, PromptSet]]
    engine: Engine
    player: Engine
    scorer: Scorer
    versions: dict[str, str]

    def problems(self, key: str) -> list[Prompt]:
        """All that stand under a key, the sources in turn."""
        return in_turn(self.sets[key])


class Asked(NamedTuple):
    """Problems, and the most tokens that a response to them may have."""

    data: DataConfig
    max_response_tokens: int


@contextmanager
def open_folder_rollouts(
    config: FolderConfig,
    asked: Mapping[str, Asked],
    *,
    report: Callable[[str], None],
    version: int = 0,
) -> Iterator[FolderRollouts]:
    """An engine with the folder's weights, as this version, beside problems and verifiers.

    Args:
        asked: at least one, by the key that names them.

    Raises:
        UserError: bad input.
    """
    model, workflow = config.model, config.workflow
    shape, tokenizer = read_hf_config(model.path), load_tokenizer(model.path)
    check_vocabulary(tokenizer, shape.vocab_size)
    data = {key: one.data for key, one in asked.items()}
    acting = environments_of(config.environments, workflow, data)
    with ExitStack() as stack:
        toolbox = open_tools(config.tools, workflow, acting, report)
        stack.callback(toolbox.close)
        chats = chat_form_of(workflow.agent, tokenizer)
        sets = _open_data(config, asked, tokenizer, toolbox, acting, chats, report)
        if config.rollout.engine != "replay":  # It has responses as they are.
            for key, one in asked.items():
                most = one.max_response_tokens
                check_lengths(sets[key], shape, key=key, max_response_tokens=most)
        forms = [prompts.form for of_sources in sets.values() for prompts in of_sources.values()]
        ends = tuple(end for form in forms for end in form.turn_ends)
        ends += () if chats is None else (chats.end,)
        stop_ids = find_stop_ids(model.path, tokenizer, ends, report)
        played = workflow_of(workflow, toolbox, acting, tokenizer, stop_ids)
        scorer = Scorer(
            *(config.reward, data),
            max_response_tokens=max(one.max_response_tokens for one in asked.values()),
            prefill=forms[0].prefill,
            report=report,
        )
        stack.enter_context(scorer)
        engine = open_engine(
            *(config.rollout, model, tokenizer),
            stop_ids=stop_ids,
            vocab_size=shape.vocab_size,
            device=read_topology().device,
            run_dir=config.run.dir,
            report=report,
        )
        player: Engine = engine
        if not isinstance(engine, ReplayEngine):  # What was recorded are whole episodes.
            player = player_on(engine, workflow, played, toolbox, chats, tokenizer, report)
        stack.callback(player.close)
        weights = () if isinstance(engine, ReplayEngine) else hf_weights(model.path)
        engine.update_weights(weights, version)
        versions = versions_of(*data.values()) | ({} if acting is None else acting.codes)
        yield FolderRollouts(sets, engine, player, scorer, versions)


def _open_data(
    config: FolderConfig,
    asked: Mapping[str, Asked],
    tokenizer: PreTrainedTokenizerFast,
    toolbox: Toolbox,
    acting: Acting | None,
    chats: ChatForm | None,
    report: Callable[[str], None],
) -> dict[str, dict[str, PromptSet]]:
    """Problems by key and source, with a line on each."""
    sets = {
        key: open_prompt_sets(
            *(one.data, tokenizer),
            key=key,
            seed=config.run.seed,
            tools=prompt_tools(config.workflow, toolbox),
            begin=None if acting is None else acting.rows,
            begins=None if chats is None else (chats.begins,),
        )
        for key, one in asked.items()
    }
    for of_sources in sets.values():
        for prompts in of_sources.values():
            report(str(prompts.report))
    return sets
