"""The side of a run that rank 0 holds alone: prompts, engine, verifiers, sample dumps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron_stare.algorithms.drawing import Drawing
from megatron_stare.checkpoint.resume import check_inputs
from megatron_stare.config.commands import TrainConfig
from megatron_stare.data.pieces import Pieces
from megatron_stare.engines.engine import Engine
from megatron_stare.engines.sglang.engine import SGLangEngine
from megatron_stare.observe.console import Advance
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.rollout.bank import Bank
from megatron_stare.rollout.dump import dump_samples
from megatron_stare.rollout.evaluate import evaluate, metrics_of
from megatron_stare.rollout.sampler import (
    Cancelled,
    Rollout,
    Sampler,
    rollout_from_plain,
    rollout_to_plain,
)
from megatron_stare.rollout.token_dump import TokenColumns, dump_tokens
from megatron_stare.rollout.workflow.toolbox import Toolbox
from megatron_stare.system.background import Background
from megatron_stare.system.outage import Outage
from megatron_stare.types import Prompt


@dataclass(slots=True)
class RolloutSide:
    """Engine and verifiers, and what they work on. `held_out` is empty where none is given.

    The engine does one thing at a time: from `start_collecting` to `collect` nothing else, but for
    what evaluates beside it from `start_evaluating` to `evaluated`.
    """

    config: TrainConfig
    engine: Engine
    player: Engine
    """The engine, or what plays episodes on it, which closes it."""
    toolbox: Toolbox
    scorer: Scorer
    sampler: Sampler
    held_out: dict[str, list[Prompt]]
    """By set, under an empty name where there is a single one."""
    bank: Bank | None
    """None where generating again costs nothing."""
    inputs: dict[str, Any]
    """What else the run reads: of the model's folder, of a user's own code; as plain values."""
    dumps: Outage
    """Of samples/."""
    pieces: Pieces
    """Texts of tokens, for dumps."""
    background: Background[Rollout] = field(default_factory=Background)
    evaluating: Background[dict[str, float]] = field(default_factory=Background)
    beside: SGLangEngine | None = None
    """What evaluates while the engine generates."""
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
        return self._evaluate(self.player, on_progress)

    def start_evaluating(self) -> None:
        """Begin with them beside what the engine generates; `evaluated` waits for them.

        The engine's weights are to stay until then.
        """
        assert isinstance(self.engine, SGLangEngine)
        self.beside = beside = self.engine.beside()
        self.evaluating.start(lambda: self._evaluate(beside, lambda _: None))

    def evaluated(self) -> dict[str, float]:
        """What `start_evaluating` has begun."""
        return self.evaluating.result()

    def _evaluate(self, player: Engine, on_progress: Advance) -> dict[str, float]:
        return metrics_of(
            {
                name: evaluate(
                    *(player, self.held_out[name], self.scorer, asked),
                    seed=self.config.run.seed,
                    name=name,
                    on_progress=on_progress,
                )
                for name, asked in self.config.eval.parts.items()
            }
        )

    def dump(
        self,
        step: int,
        rollout: Rollout,
        advantages: Sequence[float],
        tokens: TokenColumns | None,
    ) -> None:
        """Write every sample of the step; `advantages` of the kept samples, in batch order.

        Where that cannot be, it is reported. Tokens come first, for whoever sees the samples; those
        of an earlier try at the step go where there are none.
        """
        path = self.config.run.dir / "samples" / f"step_{step:06d}.jsonl"
        of_tokens = path.with_suffix(".parquet")
        with self.dumps.tolerated():
            if tokens is None:
                of_tokens.unlink(missing_ok=True)
            else:
                num_groups = tokens.num_groups
                dump_tokens(of_tokens, step, rollout.groups[:num_groups], tokens, self.pieces)
            dump_samples(path, rollout.groups, advantages, rollout.filtered, rollout.reasons)

    def close(self) -> None:
        """Stop the engine and the verifiers, and what they work on."""
        self.background.stop(self.sampler.cancel)
        if self.beside is not None:
            self.evaluating.stop(self.beside.interrupt)
        self.player.close()
        self.toolbox.close()
        self.scorer.close()
        if self.bank is not None:
            self.bank.close()
