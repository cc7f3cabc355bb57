"""How rank 0 comes by its side of a run: data, workflow, engine, verifiers and bank."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

from transformers import PreTrainedTokenizerFast

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.evaluation import key_of
from megatron_stare.data.pieces import Pieces
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
from megatron_stare.rollout.sampler import Prompts, Sampler
from megatron_stare.rollout.stop_tokens import find_stop_ids
from megatron_stare.rollout.workflow import opening
from megatron_stare.rollout.workflow.toolbox import Toolbox
from megatron_stare.rollout.workflow.workflow import Workflow
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
    with ExitStack() as opened:
        asked = _open_questions(config, world, opened)
        scorer = opened.enter_context(
            Scorer(
                config.reward,
                config.data_by_key,
                max_response_tokens=config.rollout.max_response_tokens,
                report=world.loggers.message,
                prefill=asked.prefill,
            )
        )
        side = _opened_on(asked, scorer, config, world, opened)
        opened.pop_all()  # The side closes them.
        return side


@dataclass(frozen=True, slots=True)
class _Questions:
    """What is asked, in which words, and what plays it.

    sets      of problems that are trained on, by source
    held_out  of those that are not, by set and source
    prefill   what the template has begun a response with
    """

    tokenizer: PreTrainedTokenizerFast
    stop_ids: tuple[int, ...]
    toolbox: Toolbox
    acting: Acting | None
    chats: ChatForm | None
    workflow: Workflow | None
    sets: dict[str, PromptSet]
    held_out: dict[str, dict[str, PromptSet]]
    prefill: str

    def versions(self, config: TrainConfig) -> dict[str, str]:
        """Of tasks and environments, by name."""
        found = versions_of(*config.data_by_key.values())
        return found if self.acting is None else found | self.acting.codes


def _open_questions(config: TrainConfig, world: World, opened: ExitStack) -> _Questions:
    tokenizer = load_tokenizer(config.model.path)
    check_vocabulary(tokenizer, world.shape.vocab_size)
    acting = opening.environments_of(config.environments, config.workflow, config.data_by_key)
    toolbox = opening.open_tools(config.tools, config.workflow, acting, world.loggers.message)
    opened.enter_context(closing(toolbox))
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
    played = toolbox, acting, chats, workflow
    return _Questions(tokenizer, stop_ids, *played, sets, held_out, forms[0].prefill)


def _opened_on(
    asked: _Questions, scorer: Scorer, config: TrainConfig, world: World, opened: ExitStack
) -> RolloutSide:
    """With an engine, and what stands between it and the sampler."""
    report, versions = world.loggers.message, asked.versions(config)
    engine = open_engine(
        *(config.rollout, config.model, asked.tokenizer),
        stop_ids=asked.stop_ids,
        vocab_size=world.shape.vocab_size,
        device=world.topology.device,
        run_dir=config.run.dir,
        report=report,
        moves_temperature=config.algorithm.first_drawing.rule is not None,
    )
    opened.enter_context(closing(engine))
    if isinstance(engine, SGLangEngine) and config.rollout.colocated:
        engine.give_up_memory()
    player: Engine = engine
    bank, generating, judging = None, player, scorer
    if isinstance(engine, ReplayEngine):  # What was recorded are whole episodes.
        check_rollout_logprobs(engine.has_logprobs, config)
    else:
        player, gaining = _players(asked, engine, config, report)
        lineage = lineage_of(config, " ".join([scorer.code, *versions.values()]))
        bank = Bank(config.run.dir / "bank", lineage, report)
        generating = _banked(gaining, bank, engine, config, world)
        judging = BankedScorer(scorer, bank)
    sampler = Sampler(
        *(_drawn(asked.sets, config), generating, judging, config.rollout),
        seed=config.run.seed,
        filters=config.algorithm.filters,
    )
    inputs = _inputs(config, asked.tokenizer, asked.stop_ids, versions)
    dumps = Outage(str(config.run.dir / "samples"), report)
    problems = {name: in_turn(one) for name, one in asked.held_out.items()}
    parts = scorer, sampler, problems, bank, inputs, dumps, Pieces(asked.tokenizer)
    return RolloutSide(config, engine, player, asked.toolbox, *parts)


def _players(
    asked: _Questions,
    engine: EmbeddedEngine | SGLangEngine,
    config: TrainConfig,
    report: Callable[[str], None],
) -> tuple[Engine, Engine]:
    """What plays episodes, and the same with what their turns have gained."""
    toolbox, tokenizer = asked.toolbox, asked.tokenizer
    player = opening.player_on(
        *(engine, config.workflow, asked.workflow, toolbox, asked.chats, tokenizer, report)
    )
    gaining = opening.with_gains(
        *(player, engine, config.rollout.turn_gains, config.workflow, toolbox),
        *(tokenizer, asked.stop_ids),
    )
    return player, gaining


def _inputs(
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerFast,
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
    tokenizer: PreTrainedTokenizerFast,
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
