"""The groups of a training step: dynamic sampling over rounds of generation.

A round draws prompts, generates, scores, and keeps the groups with a learning signal; rounds go on
until the batch is full. Every prompt drawn ends as exactly one of completed, filtered, failed,
aborted, and the books are checked (`Ledger`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from megatron_stare.algorithms.filters import has_signal
from megatron_stare.config import RolloutConfig
from megatron_stare.data.prompts import PromptSet
from megatron_stare.errors import UserError
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.rollout.engine import Engine
from megatron_stare.rollout.groups import generate_groups
from megatron_stare.rollout.ledger import Ledger
from megatron_stare.rollout.randomness import derive_seed
from megatron_stare.rollout.statistics import count_solved, group_statistics
from megatron_stare.types import Group


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a step trains on, and what it left out.

    groups    the batch, exactly `prompts_per_step`, in the order their prompts were drawn
    filtered  groups that were generated and scored, and are not in the batch
    metrics   `rollout/*` and `reward/*`
    """

    groups: list[Group]
    filtered: list[Group]
    metrics: dict[str, float]


@dataclass(slots=True)
class _Filling:
    """A batch being filled."""

    ledger: Ledger = field(default_factory=Ledger)
    kept: list[Group] = field(default_factory=list)
    filtered: list[Group] = field(default_factory=list)


class Sampler:
    """Fills batches from a prompt set, an engine and a scorer.

    `seed` is the run's; generation in a step is seeded by (seed, step, round). `on_progress` is
    called with the number of samples that arrived since the call before.
    """

    def __init__(
        self,
        prompts: PromptSet,
        engine: Engine,
        scorer: Scorer,
        config: RolloutConfig,
        *,
        seed: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        self._prompts = prompts
        self._engine = engine
        self._scorer = scorer
        self._config = config
        self._seed = seed
        self._on_progress = on_progress

    def collect(self, step: int) -> Rollout:
        """Generate until `prompts_per_step` groups are kept; a surplus is dropped, the last first.

        Raises:
            UserError: the batch is not full after `max_rounds` rounds.
        """
        filling = _Filling()
        for round_number in range(1, self._config.max_rounds + 1):
            self._play_round(filling, derive_seed(self._seed, step, round_number))
            if len(filling.kept) >= self._config.prompts_per_step:
                return self._finish(filling, round_number)
        raise UserError(f"step {step}: {self._why_not_full(filling)}")

    def _play_round(self, filling: _Filling, seed: int) -> None:
        config, ledger = self._config, filling.ledger
        prompts = self._prompts.draw(
            num_to_draw(config.prompts_per_step, len(filling.kept), len(ledger))
        )
        ledger.draw(prompts)
        answers = generate_groups(
            self._engine,
            self._scorer,
            prompts,
            config.samples_per_prompt,
            config,
            seed=seed,
            on_progress=self._on_progress,
        )
        ledger.end(answers.failed, "failed")
        ledger.end(answers.aborted, "aborted")
        for group in answers.groups:
            (filling.kept if self._is_kept(group) else filling.filtered).append(group)

    def _is_kept(self, group: Group) -> bool:
        verdicts = [reward.correct for reward in group.rewards]
        return not self._config.dynamic_sampling or has_signal(verdicts)

    def _finish(self, filling: _Filling, num_rounds: int) -> Rollout:
        size = self._config.prompts_per_step
        groups, surplus = filling.kept[:size], filling.kept[size:]
        filtered = filling.filtered + surplus
        filling.ledger.end((group.prompt for group in groups), "completed")
        filling.ledger.end((group.prompt for group in filtered), "filtered")
        endings = filling.ledger.close()
        metrics = {
            **{f"rollout/{ending}": float(count) for ending, count in endings.items()},
            "rollout/rounds": float(num_rounds),
            **group_statistics(groups + filtered),
        }
        return Rollout(groups, filtered, metrics)

    def _why_not_full(self, filling: _Filling) -> str:
        config, num_drawn = self._config, len(filling.ledger)
        generated = filling.kept + filling.filtered
        num_all, num_none = count_solved(generated)
        return (
            f"{len(filling.kept)} of rollout.prompts_per_step={config.prompts_per_step} groups "
            f"after rollout.max_rounds={config.max_rounds} rounds; of {num_drawn} prompts, "
            f"{num_none} have no correct sample, {num_all} only correct ones, "
            f"{num_drawn - len(generated)} were not answered: problems nearer to what the policy "
            "can do, more rollout.samples_per_prompt, or rollout.dynamic_sampling=false let more "
            "groups through, and a smaller rollout.prompts_per_step needs fewer"
        )


def num_to_draw(size: int, num_kept: int, num_drawn: int) -> int:
    """Prompts of the next round: those missing over the share kept so far, at most a batch of them.

    Before the first group is kept there is no share to go by, and a whole batch is drawn.
    """
    if num_kept == 0:
        return size
    expected = -(-(size - num_kept) * num_drawn // num_kept)
    return min(size, expected)
