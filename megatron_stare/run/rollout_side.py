"""The side of a run that rank 0 holds alone: prompts, engine, verifiers, sample dumps."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from megatron_stare.algorithms.drawing import Drawing
from megatron_stare.checkpoint.resume import check_inputs
from megatron_stare.config.commands import TrainConfig
from megatron_stare.data.prompts import PromptSet
from megatron_stare.data.sources import check_lengths, in_turn, open_prompt_sets
from megatron_stare.data.tasks import versions_of
from megatron_stare.data.tokenizer import check_vocabulary, load_tokenizer, tokenizer_identity
from megatron_stare.engines.embedded import EmbeddedEngine
from megatron_stare.engines.engine import Engine
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.engines.sglang.engine import SGLangEngine
from megatron_stare.environments.acting import Acting
from megatron_stare.launch.rank_zero import from_rank_zero
from megatron_stare.model_shape import ModelShape
from megatron_stare.observe.console import Advance
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.rollout.bank import Bank
from megatron_stare.rollout.banked import BankedEngine, BankedScorer, missing
from megatron_stare.rollout.curated import Curated
from megatron_stare.rollout.dump import dump_samples
from megatron_stare.rollout.evaluate import evaluate
from megatron_stare.rollout.lineage import code_of_parts, code_of_tools, lineage_of
from megatron_stare.rollout.mixture import Mixture
from megatron_stare.rollout.sampler import (
    Cancelled,
    Prompts,
    Rollout,
    Sampler,
    rollout_from_plain,
    rollout_to_plain,
)
from megatron_stare.rollout.stop_tokens import describe_stop_tokens, stop_token_sources
from megatron_stare.rollout.workflow import opening
from megatron_stare.rollout.workflow.playing import PlayingEngine
from megatron_stare.rollout.workflow.toolbox import Toolbox
from megatron_stare.run.engine import build_engine
from megatron_stare.run.facts import check_rollout_logprobs
from megatron_stare.run.session import World
from megatron_stare.system.background import Background
from megatron_stare.system.outage import Outage
from megatron_stare.types import Prompt


@dataclass(slots=True)
class RolloutSide:
    """Engine and verifiers, and what they work on. `held_out` is empty where none is given.

    Engine and verifiers do one thing at a time: from `start_collecting` to `collect` nothing else.
    """

    config: TrainConfig
    engine: Engine
    player: Engine
    """The engine, or what plays episodes on it."""
    toolbox: Toolbox
    scorer: Scorer
    sampler: Sampler
    held_out: list[Prompt]
    bank: Bank | None
    """None where generating again costs nothing."""
    inputs: dict[str, Any]
    """What else the run reads: of the model's folder, of a user's own code; as plain values."""
    dumps: Outage
    """Of samples/."""
    background: Background[Rollout] = field(default_factory=Background)
    pending: Rollout | None = None
    """Collected before a checkpoint, and not trained on there."""

    def start_collecting(self, step: int, drawing: Drawing) -> None:
        """Begin with the groups of a step, in another thread; `collect` then waits for them."""
        self.background.start(lambda: self._generate(step, drawing))

    def collect(self, step: int, drawing: Drawing, on_progress: Advance) -> Rollout:
        """The groups of a step, generated and judged; then the trainer may have the memory.

        `drawing` says how samples are drawn that are not there yet.

        Raises:
            Cancelled: as asked for; the sampler stands where it stood before the step.
        """
        try:
            rollout = self._take_rollout(step, drawing, on_progress)
        except Cancelled:
            self._give_up_memory()
            raise
        self._give_up_memory()
        return rollout

    def _take_rollout(self, step: int, drawing: Drawing, on_progress: Advance) -> Rollout:
        if self.pending is not None:
            rollout, self.pending = self.pending, None
            return rollout
        if self.background.is_used:
            return self.background.result()
        return self._generate(step, drawing, on_progress)

    def _generate(
        self,
        step: int,
        drawing: Drawing,
        on_progress: Advance = lambda _: None,
    ) -> Rollout:
        if self.bank is not None:
            self.bank.begin(step, self.sampler.state_dict()["prompts"])
            if self.config.checkpoint.every == 0:
                self.forget_samples(through=step - 1)
        rollout = self.sampler.collect(step, on_progress, drawing)
        self.scorer.format.end_step(is_last=step == self.config.train.steps)
        return rollout

    def forget_samples(self, through: int | None) -> None:
        """Samples of steps up to this one are not needed again; None: of no step."""
        if self.bank is not None:
            self.bank.forget_steps(through)

    def _give_up_memory(self) -> None:
        if self.config.rollout.colocated:
            assert isinstance(self.engine, SGLangEngine)
            self.engine.give_up_memory()

    def take_memory_back(self) -> None:
        """With `colocated`, between new weights and the next thing to generate."""
        assert isinstance(self.engine, SGLangEngine)
        self.engine.take_memory_back()

    def state_dict(self, pending: Rollout | None) -> dict[str, Any]:
        """What the next step begins with, as plain values; `pending` is the step's own rollout."""
        return {
            "sampler": self.sampler.state_dict(),
            "inputs": self.inputs,
            "pending": None if pending is None else rollout_to_plain(pending),
        }

    def load_state_dict(self, state: dict[str, Any]) -> list[str]:
        """Go on from a saved state; how what is read differs from then, a line a thing.

        Raises:
            UserError: the data or the tokenizer is not the same.
        """
        self.sampler.load_state_dict(state["sampler"])
        if state["pending"] is not None:
            self.pending = rollout_from_plain(state["pending"])
        return check_inputs(state.get("inputs", {}), self.inputs)

    def evaluate(self, on_progress: Advance) -> dict[str, float]:
        """Held-out metrics of the weights in the engine."""
        return evaluate(
            self.player,
            self.held_out,
            self.scorer,
            self.config.eval,
            seed=self.config.run.seed,
            on_progress=on_progress,
        ).metrics

    def dump(self, step: int, rollout: Rollout, advantages: Sequence[float]) -> None:
        """Write every sample of the step; `advantages` of the kept samples, in batch order.

        Where that cannot be, it is reported.
        """
        path = self.config.run.dir / "samples" / f"step_{step:06d}.jsonl"
        with self.dumps.tolerated():
            dump_samples(path, rollout.groups, advantages, rollout.filtered)

    def close(self) -> None:
        """Stop the engine and the verifiers, and what they work on."""
        self.background.stop(self.sampler.cancel)
        self.engine.close()
        self.toolbox.close()
        self.scorer.close()
        if self.bank is not None:
            self.bank.close()


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
    sets, problems = _open_data(config, tokenizer, tools, acting, world.shape)
    forms = []
    for prompts in (*sets.values(), *problems.values()):
        world.loggers.message(str(prompts.report))
        forms.append(prompts.form)
    turn_ends = tuple(end for form in forms for end in form.turn_ends)
    sources = stop_token_sources(config.model.path, tokenizer, turn_ends=turn_ends)
    world.loggers.message(describe_stop_tokens(sources, tokenizer))
    workflow = opening.workflow_of(config.workflow, toolbox, acting, tokenizer, tuple(sources))
    scorer = Scorer(
        config.reward,
        config.data_by_key,
        max_response_tokens=config.rollout.max_response_tokens,
        report=world.loggers.message,
        prefill=forms[0].prefill,
    )
    try:
        engine = build_engine(config, tokenizer, tuple(sources), world)
        if isinstance(engine, ReplayEngine):
            check_rollout_logprobs(engine.has_logprobs, config)
    except BaseException:
        scorer.close()
        raise
    versions = versions_of(config.data, config.eval.data)
    versions |= {} if acting is None else acting.codes
    player: Engine = engine
    if workflow is not None and not isinstance(engine, ReplayEngine):  # It has whole episodes.
        player = PlayingEngine(engine, workflow, toolbox)
    bank, generating, judging = None, player, scorer
    if not isinstance(engine, ReplayEngine):
        lineage = lineage_of(config, " ".join([scorer.code, *versions.values()]))
        bank = Bank(config.run.dir / "bank", lineage, world.loggers.message)
        generating = _banked(player, bank, engine, config, world)
        judging = BankedScorer(scorer, bank)
    drawn = _drawn(sets, config)
    sampler = Sampler(
        *(drawn, generating, judging, config.rollout), seed=seed, filters=method.filters
    )
    inputs = {
        **tokenizer_identity(tokenizer),
        "stop_ids": list(sources),
        **code_of_parts(method),
        **code_of_tools(config.tools),
        **versions,
    }
    dumps = Outage(str(config.run.dir / "samples"), world.loggers.message)
    parts = scorer, sampler, in_turn(problems), bank, inputs, dumps
    return RolloutSide(config, engine, player, toolbox, *parts)


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
    shape: ModelShape,
) -> tuple[dict[str, PromptSet], dict[str, PromptSet]]:
    """What is trained on, and what is held out, by source."""
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
        )
        for key, data in config.data_by_key.items()
    }
    trained_on, held_out = sets["data"], sets.get("eval.data", {})
    if config.rollout.engine != "replay":  # It has responses as they are.
        most = config.eval.max_response_tokens
        check_lengths(held_out, shape, key="eval.data", max_response_tokens=most)
    return trained_on, held_out


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
