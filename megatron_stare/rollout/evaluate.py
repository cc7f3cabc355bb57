"""Held-out evaluation: avg@k, pass@k and maj@k of an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan, prod

import numpy as np

from megatron_stare.config.commands import EvalSection
from megatron_stare.engines.engine import Engine
from megatron_stare.engines.randomness import derive_seed
from megatron_stare.errors import UserError
from megatron_stare.rewards.answers import stated_answer
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.rollout.failures import check_verifier, count_failures
from megatron_stare.rollout.groups import generate_groups
from megatron_stare.rollout.statistics import by_source, length_statistics
from megatron_stare.rollout.turn_statistics import turn_statistics
from megatron_stare.types import Group, Prompt


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`eval/*` metrics, of each of several sources too, and the samples they were computed from."""

    metrics: dict[str, float]
    groups: list[Group]


def evaluate(
    engine: Engine,
    prompts: Sequence[Prompt],
    scorer: Scorer,
    config: EvalSection,
    *,
    seed: int,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Sample every prompt k = `samples_per_prompt` times, under the same seed at every call.

    Args:
        prompts: the first `config.max_prompts` are used.
        on_progress: called with the number of samples that arrived since the call before.

    Raises:
        UserError: the engine left a prompt without its samples, or the verifier does nothing but
            fail; a mean over the rest would lie.
    """
    answers = generate_groups(
        engine,
        scorer,
        prompts[: config.max_prompts],
        config.samples_per_prompt,
        config,
        seed=derive_seed(seed, "eval"),
        on_progress=on_progress,
    )
    if answers.unanswered:
        raise UserError(
            f"evaluation: {len(answers.unanswered)} prompts were not answered in full, "
            f"the first is {answers.unanswered[0].row}"
        )
    check_verifier(answers.groups)
    samples = [sample for group in answers.groups for sample in group.samples]
    of_turns = turn_statistics(samples)
    metrics = {
        **_metrics("eval", answers.groups, config.samples_per_prompt),
        **{f"eval/{name.replace('/', '_')}": value for name, value in of_turns.items()},
    }
    for name, groups in by_source(answers.groups).items():
        metrics |= _metrics(f"eval/source/{name}", groups, config.samples_per_prompt)
    return Evaluation(metrics, answers.groups)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that k of n samples, drawn without replacement, hold a correct one.

    1 - C(n-c, k) / C(n, k), the unbiased estimate of pass@k (Chen et al., arXiv 2107.03374), as a
    product of factors in [0, 1], which neither overflows nor cancels.
    """
    if num_samples - num_correct < k:
        return 1.0
    return 1.0 - prod(1.0 - k / i for i in range(num_samples - num_correct + 1, num_samples + 1))


def _metrics(prefix: str, groups: Sequence[Group], num_samples: int) -> dict[str, float]:
    verdicts = [reward.correct for group in groups for reward in group.judged.rewards]
    num_failures = count_failures(groups)
    return {
        f"{prefix}/avg_at_k": float(np.mean(verdicts)) if verdicts else nan,
        **_pass_rates(prefix, groups, num_samples),
        **_majority(prefix, groups, num_samples),
        **length_statistics(prefix, groups),
        **({f"{prefix}/failures": float(num_failures)} if num_failures else {}),
    }


def _pass_rates(prefix: str, groups: Sequence[Group], num_samples: int) -> dict[str, float]:
    """pass@k for k = 1, 2, 4, ... and `num_samples`; only a full verdict, 1, counts as correct.

    Each is over the groups of which k samples are judged; it is left out where there are none.
    """
    verdicts = [[reward.correct == 1.0 for reward in group.judged.rewards] for group in groups]
    budgets = [2**i for i in range(num_samples.bit_length()) if 2**i < num_samples]
    rates = {
        k: [pass_at_k(len(found), sum(found), k) for found in verdicts if len(found) >= k]
        for k in [*budgets, num_samples]
    }
    return {f"{prefix}/pass_at_{k}": float(np.mean(found)) for k, found in rates.items() if found}


def _majority(prefix: str, groups: Sequence[Group], num_samples: int) -> dict[str, float]:
    """maj@k of k = `num_samples`, over the groups of which a sample is judged."""
    found = [majority_verdict(group.judged) for group in groups if group.judged.rewards]
    return {f"{prefix}/maj_at_k": float(np.mean(found))} if num_samples > 1 and found else {}


def majority_verdict(group: Group) -> float:
    """The verdict on its most frequent final answer; the mean of those that are as frequent.

    Answers are the same where their texts are (`stated_answer`); none at all is no vote.
    """
    verdicts: dict[str, list[float]] = {}
    for sample, reward in zip(group.samples, group.rewards, strict=True):
        if answer := stated_answer(sample.final_text):
            verdicts.setdefault(answer, []).append(reward.correct)
    most = max(map(len, verdicts.values()), default=0)
    ahead = [np.mean(found) for found in verdicts.values() if len(found) == most]
    return float(np.mean(ahead)) if ahead else 0.0
