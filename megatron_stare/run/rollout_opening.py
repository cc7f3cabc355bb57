"""How rank 0 comes by its side of a run: data, workflow, engine, verifiers and bank."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

from transformers import PreTrainedTokenizerBase

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.evaluation import key_of
from megatron_stare.data.prompts import PromptSet
from megatron_stare.data.sources import check_lengths, in_turn, open_prompt_sets
from megatron_stare.data.tasks import versions_of
from megatron_stare.data.tokenizer import check_vocabulary, load_tokenizer, tokenizer_identity
from megatron_stare.engines.embedded import EmbeddedEngine
from megatron_stare.engines.engine import Engine
from megatron_stare.engines.opening import open_engine
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.engines.sglang.engine import SGLangEngine
from megatron_stare.environments.acting import Acting
from megatron_stare.launch.rank_zero import from_rank_zero
from megatron_stare.model_shape import ModelShape
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.rollout.agents.chat_form import ChatForm, chat_form_of
from megatron_stare.rollout.bank import Bank
from megatron_stare.rollout.banked import BankedEngine, BankedScorer, missing
from megatron_stare.rollout.curated import Curated
from megatron_stare.rollout.lineage import code_of_agent, code_of_parts, code_of_tools, lineage_of
from megatron_stare.rollout.mixture import Mixture
from megatron_stare.rollout.sampler import (
    Prompts,
    Sampler,
)
from megatron_stare.rollout.stop_tokens import find_stop_ids
from megatron_stare.rollout.workflow import opening
from megatron_stare.rollout.workflow.toolbox import Toolbox
from megatron_stare.run.facts import check_rollout_logprobs
from megatron_stare.run.rollout_side import RolloutSide
from megatron_stare.run.session import World
from megatron_stare.system.outage import Outage


@contextmanager
def open_rollout_side(config: TrainConfig, world: World) -> Iterator[RolloutSide | None]:
    """The rollout side on rank 0, None elsewhere; bad input of rank 0 is raised on every rank."""
    side: RolloutSide | None = None

    def build() -> None:
        nonlocal side
        side = _build(config, world)

    from_rank_zero(build)
    try:
        yield side
    finally:
        if side is not None:
            side.close()


def _build(config: TrainConfig, world: World) -> RolloutSide:
    tokenizer = load_tokenizer(config.model.path)
    check_vocabulary(tokenizer, world.shape.vocab_size)
    acting = opening.environments_of(config.environments, config.workflow, config.data_by_key)
    toolbox = opening.open_tools(config.tools, config.workflow, acting, world.loggers.message)
    try:
        return _build_with(toolbox, acting, tokenizer, config, world)
    except BaseException:
        toolbox.close()
        raise


def _build_with(
    toolbox: Toolbox,
    acting: Acting | None,
    tokenizer: PreTrainedTokenizerBase,
    config: TrainConfig,
    world: World,
) -> RolloutSide:
    method, seed = config.algorithm, config.run.seed
    tools = opening.prompt_tools(config.workflow, toolbox)
    chats = chat_form_of(config.workflow.agent, tokenizer)
    sets, held_out = _open_data(config, tokenizer, tools, acting, chats, world.shape)
    forms = []
    for prompts in chain(sets.values(), *(one.values() for one in held_out.values())):
        world.loggers.message(str(prompts.report))
        forms.append(prompts.form)
    turn_ends = tuple(end for form in forms for end in form.turn_ends)
    turn_ends += () if chats is None else (chats.end,)
    stop_ids = find_stop_ids(config.model.path, tokenizer, turn_ends, world.loggers.message)
    workflow = opening.workflow_of(config.workflow, toolbox, acting, tokenizer, stop_ids)
    scorer = Scorer(
        config.reward,
        config.data_by_key,
        max_response_tokens=config.rollout.max_response_tokens,
        report=world.loggers.message,
        prefill=forms[0].prefill,
    )
    try:
        engine = open_engine(
            *(config.rollout, config.model, tokenizer),
            stop_ids=stop_ids,
            vocab_size=world.shape.vocab_size,
            device=world.topology.device,
            run_dir=config.run.dir,
            report=world.loggers.message,
            moves_temperature=method.first_drawing.rule is not None,
        )
        if isinstance(engine, SGLangEngine) and config.rollout.colocated:
            engine.give_up_memory()
        if isinstance(engine, ReplayEngine):
            check_rollout_logprobs(engine.has_logprobs, config)
    except BaseException:
        scorer.close()
        raise
    versions = versions_of(*config.data_by_key.values())
    versions |= {} if acting is None else acting.codes
    player: Engine = engine
    bank, generating, judging = None, player, scorer
    if not isinstance(engine, ReplayEngine):  # What was recorded are whole episodes.
        player = opening.player_on(
            *(engine, config.workflow, workflow, toolbox, chats, tokenizer, world.loggers.message)
        )
        lineage = lineage_of(config, " ".join([scorer.code, *versions.values()]))
        bank = Bank(config.run.dir / "bank", lineage, world.loggers.message)
        gaining = opening.with_gains(
            *(player, engine, config.rollout.turn_gains, config.workflow, toolbox),
            *(tokenizer, stop_ids),
        )
        generating = _banked(gaining, bank, engine, config, world)
        judging = BankedScorer(scorer, bank)
    drawn = _drawn(sets, config)
    sampler = Sampler(
        *(drawn, generating, judging, config.rollout), seed=seed, filters=method.filters
    )
    inputs = _inputs(config, tokenizer, stop_ids, versions)
    dumps = Outage(str(config.run.dir / "samples"), world.loggers.message)
    problems = {name: in_turn(one) for name, one in held_out.items()}
    parts = scorer, sampler, problems, bank, inputs, dumps
    return RolloutSide(config, engine, player, toolbox, *parts)


def _inputs(
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: tuple[int, ...],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """What a run that goes on should find as it was."""
    return {
        **tokenizer_identity(tokenizer),
        "stop_ids": list(stop_ids),
        **code_of_parts(config.algorithm),
        **code_of_tools(config.tools),
        **(code_of_agent(config.workflow.agent) if config.rollout.engine != "replay" else {}),
        **versions,
    }


def _banked(
    player: Engine,
    bank: Bank,
    engine: EmbeddedEngine | SGLangEngine,
    config: TrainConfig,
    world: World,
) -> BankedEngine:
    return BankedEngine(
        player,
        bank,
        max_staleness=config.rollout.max_staleness if config.rollout.is_off_policy else 0,
        remaining=engine.remaining if isinstance(engine, EmbeddedEngine) else missing,
        report=world.loggers.message,
    )


def _open_data(
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[dict[str, Any]],
    acting: Acting | None,
    chats: ChatForm | None,
    shape: ModelShape,
) -> tuple[dict[str, PromptSet], dict[str, dict[str, PromptSet]]]:
    """What is trained on, by source; and what is held out, by set and source."""
    longest = {"data": config.rollout.max_response_tokens}
    sets = {
        key: open_prompt_sets(
            data,
            tokenizer,
            key=key,
            seed=config.run.seed,
            max_demonstration_tokens=longest.get(key, sys.maxsize),
            tools=tools,
            begin=None if acting is None else acting.rows,
            begins=None if chats is None else (chats.begins,),
        )
        for key, data in config.data_by_key.items()
    }
    held_out = {}
    for name, asked in config.eval.parts.items():
        held_out[name] = sets[f"{key_of(name)}.data"]
        if config.rollout.engine != "replay":  # It has responses as they are.
            most = asked.max_response_tokens
            key = f"{key_of(name)}.data"
            check_lengths(held_out[name], shape, key=key, max_response_tokens=most)
    return sets["data"], held_out


def _drawn(sets: dict[str, PromptSet], config: TrainConfig) -> Prompts:
    """What training prompts are drawn from: a curriculum chooses within its source."""
    curriculum, seed = config.algorithm.curriculum, config.run.seed
    drawn: dict[str, Prompts] = {
        name: Curated(prompts, curriculum, seed=seed, source=name) if curriculum else prompts
        for name, prompts in sets.items()
    }
    if not config.data.sources:
        return drawn[""]
    return Mixture(drawn, {name: each.weight for name, each in config.data.sources.items()})
