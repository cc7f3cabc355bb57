"""The groups of a training step: dynamic sampling over rounds of generation.

A round draws prompts, generates, scores, and keeps the groups with a learning signal; without
dynamic sampling, all that can be compared. Rounds go on until the batch is full. Every prompt ends
as exactly one of completed, filtered, failed, aborted, or goes on in the next step, and the books
are checked (`Ledger`).

    oversampling       a round draws more prompts than are missing, and is interrupted as soon as
                       the batch is full
    partial_rollouts   what was interrupted goes on in the next step, under its weights, where the
                       response stands; the batch waits for groups that would become too old
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from megatron_stare.algorithms.drawing import Drawing
from megatron_stare.algorithms.filters import Mixed
from megatron_stare.algorithms.hooks import Filter
from megatron_stare.config.rollout import RolloutConfig
from megatron_stare.engines.engine import Engine
from megatron_stare.engines.randomness import derive_seed
from megatron_stare.errors import UserError
from megatron_stare.rollout.failures import check_verifier
from megatron_stare.rollout.filling import Filling, why_not_full
from megatron_stare.rollout.filtering import Filtering
from megatron_stare.rollout.groups import GrowingGroup, Judge, score_groups
from megatron_stare.rollout.plain import group_from_plain, group_to_plain
from megatron_stare.rollout.statistics import (
    demonstration_statistics,
    group_statistics,
    propensity_statistics,
    source_statistics,
    staleness_statistics,
)
from megatron_stare.rollout.turn_statistics import turn_statistics
from megatron_stare.types import Group, Prompt, Sample


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a step trains on, and what it left out.

    groups    the batch, exactly `prompts_per_step`, in the order their prompts were drawn
    filtered  groups that were generated and scored, and are not in the batch
    metrics   `rollout/*` and `reward/*`
    seconds   from the first draw to the last verdict
    reasons   why groups are filtered, by uid: `filter NAME`, `too few judged`, `batch full`
    """

    groups: list[Group]
    filtered: list[Group]
    metrics: dict[str, float]
    seconds: float
    reasons: dict[str, str] = field(default_factory=dict)


_OF_GROUPS = ("groups", "filtered")


def rollout_to_plain(rollout: Rollout) -> dict[str, Any]:
    """As plain values, for a checkpoint."""
    plain = {each.name: getattr(rollout, each.name) for each in fields(rollout)}
    return plain | {key: [group_to_plain(group) for group in plain[key]] for key in _OF_GROUPS}


def rollout_from_plain(plain: dict[str, Any]) -> Rollout:
    """The rollout that `rollout_to_plain` was given."""
    groups = {key: [group_from_plain(group) for group in plain[key]] for key in _OF_GROUPS}
    known: dict[str, Any] = plain | groups
    return Rollout(**known)


class Prompts(Protocol):
    """What is asked, and in what order."""

    def draw(self, count: int) -> list[Prompt]:
        """The next `count` prompts; no uid comes twice in a run."""
        ...

    def observe(self, judged: Sequence[Group]) -> None:
        """End a step, in which these groups were judged."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the next step begins with, as plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; UserError where the data is not the same."""
        ...


class Cancelled(Exception):
    """Collecting was given up from outside."""


_MIXED = {"mixed": Mixed()}


class Sampler:
    """Fills batches from a prompt set, an engine and a scorer, one step after the other.

    `seed` is the run's; generation in a step is seeded by (seed, step, round). `filters` say which
    groups dynamic sampling keeps.
    """

    def __init__(
        self,
        prompts: Prompts,
        engine: Engine,
        scorer: Judge,
        config: RolloutConfig,
        *,
        seed: int,
        filters: Mapping[str, Filter] = _MIXED,
    ) -> None:
        self._prompts = prompts
        self._engine = engine
        self._scorer = scorer
        self._config = config
        self._seed = seed
        self._filtering = Filtering(filters if config.dynamic_sampling else {})
        self._drawing = Drawing()
        self._is_cancelled = False
        self._is_collecting = False
        self._carried: list[GrowingGroup | Group] = []
        """From the step before, in the order they were drawn."""

    def collect(
        self,
        step: int,
        on_progress: Callable[[int], None] = lambda _: None,
        drawing: Drawing | None = None,
    ) -> Rollout:
        """Generate until `prompts_per_step` groups are kept, the first drawn of those there are.

        Args:
            on_progress: called with the number of samples finished since the call before.
            drawing: how its samples are drawn.

        Raises:
            UserError: the batch is not full after `max_rounds` rounds, or a round shows that the
                verifier does nothing but fail.
            Cancelled: `cancel` was called; everything is as before the call.
        """
        before = self.state_dict()
        self._drawing = drawing or Drawing()
        self._is_collecting = True
        try:
            return self._collect(step, on_progress)
        except Cancelled:
            self.load_state_dict(before)
            raise
        finally:
            self._is_collecting = False

    def state_dict(self) -> dict[str, Any]:
        """What the next step begins with, as plain values."""
        return {
            "prompts": self._prompts.state_dict(),
            "engine": self._engine.state_dict(),
            "carried": [group_to_plain(group) for group in self._carried],
            "filters": self._filtering.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; UserError where the data is not the same."""
        self._prompts.load_state_dict(state["prompts"])
        self._engine.load_state_dict(state["engine"])
        self._filtering.load_state_dict(state.get("filters", {}))
        self._carried = [group_from_plain(plain) for plain in state["carried"]]

    def _collect(self, step: int, on_progress: Callable[[int], None]) -> Rollout:
        start = time.perf_counter()
        first = self._drawing.first_of(self._group_size)
        filling = Filling(self._carried)
        for round_number in range(1, self._config.max_rounds + 1):
            filling.draw(self._prompts.draw(self._num_to_draw(filling)), first)
            seed = derive_seed(self._seed, step, round_number)
            self._play_round(filling, step, seed, on_progress)
            check_verifier(filling.kept + filling.filtered)
            if len(filling.kept) >= self._size:
                return self._finish(filling, step, round_number, time.perf_counter() - start)
        raise UserError(f"step {step}: {why_not_full(filling, self._config)}")

    def cancel(self) -> None:
        """Have `collect`, in another thread, stop as soon as it can, or at once when called."""
        self._is_cancelled = True
        if self._is_collecting:
            self._engine.interrupt()

    @property
    def _size(self) -> int:
        return self._config.prompts_per_step

    @property
    def _group_size(self) -> int:
        return self._config.samples_per_prompt

    def _num_to_draw(self, filling: Filling) -> int:
        """As many as bring what is under way to what is missing; carried groups stay below a batch.

        Kept and growing groups are two batches at most, of which this step takes one.
        """
        config = self._config
        needed = num_to_generate(self._size, len(filling.kept), filling.num_judged)
        wanted = math.ceil(needed * config.oversampling)
        room = 2 * self._size - len(filling.kept)
        return max(min(wanted, room) - len(filling.growing), 0)

    def _play_round(
        self, filling: Filling, step: int, seed: int, on_progress: Callable[[int], None]
    ) -> None:
        is_interrupted = False
        if self._is_cancelled:
            raise Cancelled
        requests = filling.requests(self._drawing.rule)
        for sample in self._engine.generate(requests, self._config, seed=seed):
            filling.take(sample)
            if sample.finish_reason != "aborted":
                on_progress(1)
            if not is_interrupted and self._may_end(filling, sample, step):
                is_interrupted = True
                self._engine.interrupt()
        if self._is_cancelled:
            raise Cancelled
        self._judge(filling)
        if not (is_interrupted and self._config.partial_rollouts):
            filling.give_up_growing(is_interrupted)
        while filling.wanting:
            self._draw_one_more(filling, seed, on_progress)

    def _draw_one_more(
        self, filling: Filling, seed: int, on_progress: Callable[[int], None]
    ) -> None:
        """Each group that the budget wants more of gets a sample more, or is done without one."""
        filling.grow_wanting()
        requests = filling.requests(self._drawing.rule)
        for sample in self._engine.generate(requests, self._config, seed=seed):
            filling.take(sample)
            on_progress(1)
        if self._is_cancelled:
            raise Cancelled
        for group in filling.take_unanswered():
            self._settle(filling, group)
        self._judge(filling)

    def _may_end(self, filling: Filling, sample: Sample, step: int) -> bool:
        """Whether to stop what runs: the batch is full, or cannot become so in this round."""
        if self._is_cancelled:
            return True
        group = filling.growing[sample.prompt.uid]
        if self._config.oversampling == 1 or not group.is_whole:
            return False
        missing = self._size - len(filling.kept)
        if filling.num_whole >= missing:
            self._judge(filling)
        if len(filling.kept) >= self._size:
            return not any(self._is_due(group, step) for group in filling.growing.values())
        is_hopeless = len(filling.kept) + len(filling.growing) < self._size
        return is_hopeless and self._config.partial_rollouts

    def _is_due(self, group: GrowingGroup, step: int) -> bool:
        """Whether a group would be too old in the next step."""
        version = group.oldest_version
        return version is not None and step - version > self._config.max_staleness

    def _judge(self, filling: Filling) -> None:
        for group in score_groups(self._scorer, filling.take_whole()):
            if self._drawing.goes_on(group, self._group_size):
                filling.wanting.append(group)
            else:
                self._settle(filling, group)

    def _settle(self, filling: Filling, group: Group) -> None:
        filling.judged.append(group)
        if not group.can_be_compared:
            return filling.drop([group], "too few judged")
        kept = self._filtering.keep(group)
        if isinstance(kept, str):
            return filling.drop([group], f"filter {kept}")
        filling.kept.append(kept)

    def _finish(self, filling: Filling, step: int, num_rounds: int, seconds: float) -> Rollout:
        groups, surplus = filling.split_kept(self._size)
        self._carried = []
        if self._config.partial_rollouts:
            self._carried = filling.in_order_drawn([*surplus, *filling.growing.values()])
        else:
            filling.drop(surplus, "batch full")
        judged = filling.in_order_drawn(filling.judged)
        self._prompts.observe(judged)
        self._filtering.observe(judged)
        filling.ledger.end((group.prompt for group in groups), "completed")
        filling.ledger.end((group.prompt for group in filling.filtered), "filtered")
        filling.ledger.end((group.prompt for group in self._carried), "carried")
        generated = filling.as_judged(groups + filling.filtered)
        metrics = {
            **{f"rollout/{ending}": float(n) for ending, n in filling.ledger.close().items()},
            "rollout/drawn": float(len(filling.drawn)),
            "rollout/rounds": float(num_rounds),
            "rollout/generated_tokens": float(filling.num_tokens),
            **group_statistics(generated),
            **turn_statistics([sample for group in generated for sample in group.samples]),
            **staleness_statistics(groups, step),
            **demonstration_statistics(groups),
            **propensity_statistics(judged),
            **self._filtering.statistics(groups),
            **source_statistics(filling.drawn, generated, groups),
        }
        return Rollout(groups, filling.filtered, metrics, seconds, filling.reasons)


def num_to_generate(size: int, num_kept: int, num_judged: int) -> int:
    """Groups of the next round: those missing over the share kept so far, at most a batch of them.

    Before the first group is kept there is no share to go by, and it is a whole batch.
    """
    if num_kept == 0:
        return size
    expected = -(-max(size - num_kept, 0) * num_judged // num_kept)
    return min(size, expected)
