"""How rank 0 comes by its side of a run: data, workflow, engine, verifiers and bank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.evaluation import key_of
from megatron_stare.data.pieces import Pieces
from megatron_stare.data.prompts import PromptSet
from megatron_stare.data.sources import in_turn
from megatron_stare.data.tokenizer import tokenizer_identity
from megatron_stare.engines.embedded import EmbeddedEngine
from megatron_stare.engines.engine import Engine
from megatron_stare.engines.opening import open_engine
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.engines.sglang.engine import SGLangEngine
from megatron_stare.launch.rank_zero import from_rank_zero
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.rollout.bank import Bank
from megatron_stare.rollout.banked import BankedEngine, BankedScorer, missing
from megatron_stare.rollout.curated import Curated
from megatron_stare.rollout.lineage import code_of_agent, code_of_parts, code_of_tools, lineage_of
from megatron_stare.rollout.mixture import Mixture
from megatron_stare.rollout.questions import Questions, open_questions
from megatron_stare.rollout.sampler import Prompts, Sampler
from megatron_stare.rollout.workflow.opening import with_gains
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
    longest = {f"{key_of(n)}.data": one.max_response_tokens for n, one in config.eval.parts.items()}
    with ExitStack() as opened:
        questions = open_questions(
            *(config, config.data_by_key, world.shape, opened),
            longest=longest,
            longest_worked={"data": config.rollout.max_response_tokens},
            report=world.loggers.message,
        )
        scorer = opened.enter_context(
            Scorer(
                config.reward,
                config.data_by_key,
                max_response_tokens=config.rollout.max_response_tokens,
                report=world.loggers.message,
                prefill=questions.prefill,
            )
        )
        side = _opened_on(questions, scorer, config, world, opened)
        opened.pop_all()  # The side closes them.
        return side


def _opened_on(
    questions: Questions, scorer: Scorer, config: TrainConfig, world: World, opened: ExitStack
) -> RolloutSide:
    """With an engine, and what stands between it and the sampler."""
    report, tokenizer = world.loggers.message, questions.tokenizer
    engine = open_engine(
        *(config.rollout, config.model, tokenizer),
        stop_ids=questions.stop_ids,
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
        player = questions.player_on(engine, config.workflow, report)
        gaining = with_gains(
            *(player, engine, config.rollout.turn_gains, config.workflow),
            *(questions.toolbox, tokenizer, questions.stop_ids),
        )
        lineage = lineage_of(config, " ".join([scorer.code, *questions.versions.values()]))
        bank = Bank(config.run.dir / "bank", lineage, report)
        generating = _banked(gaining, bank, engine, config, world)
        judging = BankedScorer(scorer, bank)
    sampler = Sampler(
        *(_drawn(questions.sets["data"], config), generating, judging, config.rollout),
        seed=config.run.seed,
        filters=config.algorithm.filters,
    )
    dumps = Outage(str(config.run.dir / "samples"), report)
    problems = {n: in_turn(questions.sets[f"{key_of(n)}.data"]) for n in config.eval.parts}
    parts = scorer, sampler, problems, bank, _inputs(config, questions), dumps, Pieces(tokenizer)
    return RolloutSide(config, engine, player, questions.toolbox, *parts)


def _inputs(config: TrainConfig, questions: Questions) -> dict[str, Any]:
    """What a run that goes on should find as it was."""
    return {
        **tokenizer_identity(questions.tokenizer),
        "stop_ids": list(questions.stop_ids),
        **code_of_parts(config.algorithm),
        **code_of_tools(config.tools),
        **(code_of_agent(config.workflow.agent) if config.rollout.engine != "replay" else {}),
        **questions.versions,
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
