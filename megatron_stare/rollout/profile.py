"""What a policy makes of states: verdicts on continuations, and which of them vary."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from megatron_stare.config.pivots import PivotsSection
from megatron_stare.engines.randomness import derive_seed
from megatron_stare.errors import UserError
from megatron_stare.rollout.failures import check_verifier
from megatron_stare.rollout.groups import generate_groups
from megatron_stare.rollout.of_folder import FolderRollouts
from megatron_stare.types import Prompt

KINDS = ("kept", "never_right", "always_right", "alike", "too_easy", "unjudged")
"""What a state may be."""


def kind_of(verdicts: Sequence[float], max_mean: float) -> str:
    """Whether a state is kept, by the verdicts on its continuations that are judged, or why not.

    Kept are those of which 0 < variance and mean < `max_mean`: hard, but solvable (PivotRL, arXiv
    2603.21383, whose threshold is not public).

    >>> kind_of([1, 0, 1, 0], 0.75), kind_of([1, 1, 1, 0], 0.75), kind_of([0, 0, 0, 0], 0.75)
    ('kept', 'too_easy', 'never_right')
    """
    if len(verdicts) < 2:
        return "unjudged"
    if len({*verdicts}) == 1:
        return {0.0: "never_right", 1.0: "always_right"}.get(verdicts[0], "alike")
    return "kept" if sum(verdicts) / len(verdicts) < max_mean else "too_easy"


def profile(
    rollouts: FolderRollouts,
    states: Sequence[Prompt],
    config: PivotsSection,
    *,
    seed: int,
    records: Sequence[bytes],
    save: Callable[[bytes], None],
    on_progress: Callable[[int], None],
) -> list[list[float]]:
    """The verdicts on continuations of each state, by batches of the engine, one after another.

    Args:
        records: of an earlier call: what these hold is not sampled again.
        save: is given a record of each batch.
        on_progress: called with the number of samples since the call before.

    Raises:
        UserError: the verifier does nothing but fail, or the policy cannot generate.
    """

    def judged(some: Sequence[Prompt]) -> list[list[float]]:
        answers = generate_groups(
            *(rollouts.player, rollouts.scorer, some, config.samples_per_state, config),
            seed=derive_seed(seed, "pivots"),
            on_progress=on_progress,
        )
        if answers.unanswered:
            raise UserError(f"{answers.unanswered[0].row}: the engine gave too few continuations")
        check_verifier(answers.groups)
        return [[reward.correct for reward in g.judged.rewards] for g in answers.groups]

    found = [verdicts for record in records for verdicts in json.loads(record)]
    on_progress(len(found) * config.samples_per_state)
    size = max(1, config.max_batch_sequences // config.samples_per_state)
    for start in range(len(found), len(states), size):
        verdicts = judged(states[start : start + size])
        save(json.dumps(verdicts).encode())
        found += verdicts
    return found
