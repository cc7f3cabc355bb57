"""The side of a run that rank 0 holds alone: prompts, engine, verifiers, sample dumps."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from megatron_stare.checkpoint.resume import check_inputs
from megatron_stare.config.commands import TrainConfig
from megatron_stare.data.prompts import PromptSet
from megatron_stare.data.sources import in_turn, open_prompt_sets
from megatron_stare.data.tasks import versions_of
from megatron_stare.data.tokenizer import check_vocabulary, load_tokenizer, tokenizer_identity
from megatron_stare.engines.embedded import EmbeddedEngine
from megatron_stare.engines.engine import Engine
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.engines.sglang.engine import SGLangEngine
from megatron_stare.launch.rank_zero import from_rank_zero
from megatron_stare.observe.console import Advance
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.rollout.bank import Bank
from megatron_stare.rollout.banked import BankedEngine, BankedScorer, missing
from megatron_stare.rollout.curated import Curated
from megatron_stare.rollout.dump import dump_samples
from megatron_stare.rollout.evaluate import evaluate
from megatron_stare.rollout.lineage import code_of_parts, lineage_of
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

    def start_collecting(self, step: int) -> None:
        """Begin with the groups of a step, in another thread; `collect` then waits for them."""
        self.background.start(lambda: self._generate(step))

    def collect(self, step: int, on_progress: Advance) -> Rollout:
        """The groups of a step, generated and judged; then the trainer may have the memory.

        Raises:
            Cancelled: as asked for; the sampler stands where it stood before the step.
        """
        try:
            rollout = self._take_rollout(step, on_progress)
        except Cancelled:
            self._give_up_memory()
            raise
        self._give_up_memory()
        return rollout

    def _take_rollout(self, step: int, on_progress: Advance) -> Rollout:
        if self.pending is not None:
            rollout, self.pending = self.pending, None
            return rollout
        if self.background.is_used:
            return self.background.result()
        return self._generate(step, on_progress)

    def _generate(self, step: int, on_progress: Advance = lambda _: None) -> Rollout:
        if self.bank is not None:
            self.bank.begin(step, self.sampler.state_dict()["prompts"])
            if self.config.checkpoint.every == 0:
                self.forget_samples(through=step - 1)
        rollout = self.sampler.collect(step, on_progress)
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
            self.engine,
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
    method, seed = config.algorithm, config.run.seed
    sets, problems = _open_data(config, tokenizer)
    forms = []
    for prompts in (*sets.values(), *problems.values()):
        world.loggers.message(str(prompts.report))
        forms.append(prompts.form)
    turn_ends = tuple(end for form in forms for end in form.turn_ends)
    sources = stop_token_sources(config.model.path, tokenizer, turn_ends=turn_ends)
    world.loggers.message(describe_stop_tokens(sources, tokenizer))
    scorer = Scorer(
        config.reward,
        config.data_by_key,
        max_response_tokens=config.rollout.max_response_tokens,
        report=world.loggers.message,
        prefill=forms[0].prefill,
    )
    try:
        engine = _build_engine(config, tokenizer, tuple(sources), world)
        if isinstance(engine, ReplayEngine):
            check_rollout_logprobs(engine.has_logprobs, config)
    except BaseException:
        scorer.close()
        raise
    versions = versions_of(config.data, config.eval.data)
    bank = None
    generating, judging = engine, scorer
    if not isinstance(engine, ReplayEngine):
        lineage = lineage_of(config, " ".join([scorer.code, *versions.values()]))
        bank = Bank(config.run.dir / "bank", lineage, world.loggers.message)
        generating = BankedEngine(
            engine,
            bank,
            max_staleness=config.rollout.max_staleness if config.rollout.is_off_policy else 0,
            remaining=engine.remaining if isinstance(engine, EmbeddedEngine) else missing,
            report=world.loggers.message,
        )
        judging = BankedScorer(scorer, bank)
    drawn = _drawn(sets, config)
    sampler = Sampler(
        *(drawn, generating, judging, config.rollout), seed=seed, filters=method.filters
    )
    inputs = {
        **tokenizer_identity(tokenizer),
        "stop_ids": list(sources),
        **code_of_parts(method),
        **versions,
    }
    dumps = Outage(str(config.run.dir / "samples"), world.loggers.message)
    return RolloutSide(config, engine, scorer, sampler, in_turn(problems), bank, inputs, dumps)


def _open_data(
    config: TrainConfig, tokenizer: PreTrainedTokenizerBase
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
        )
        for key, data in config.data_by_key.items()
    }
    return sets["data"], sets.get("eval.data", {})


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


def _build_engine(
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Sequence[int],
    world: World,
) -> Engine:
    if config.rollout.replay_path is not None:
        return ReplayEngine(
            config.rollout.replay_path, tokenizer, vocab_size=world.shape.vocab_size
        )
    if config.rollout.engine == "sglang":
        engine = SGLangEngine(
            config.rollout.servers,
            config.model.path,
            tokenizer,
            weights_dir=config.rollout.servers.weights_dir or config.run.dir / "sync",
            log_dir=config.run.dir,
            report=world.loggers.message,
            stop_ids=stop_ids,
        )
        if config.rollout.colocated:
            engine.give_up_memory()
        return engine
    return EmbeddedEngine(
        config.model.path,
        tokenizer,
        device=world.topology.device,
        dtype=getattr(torch, config.model.dtype),
        max_batch_sequences=config.rollout.max_batch_sequences,
        stop_ids=stop_ids,
    )
