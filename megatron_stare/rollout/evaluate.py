"""Held-out evaluation of an engine, set by set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from megatron_stare.config.evaluation import AskedConfig
from megatron_stare.engines.engine import Engine
from megatron_stare.engines.randomness import derive_seed
from megatron_stare.errors import UserError
from megatron_stare.rollout.failures import check_verifier
from megatron_stare.rollout.groups import Judge, generate_groups
from megatron_stare.rollout.measures import measures
from megatron_stare.rollout.statistics import by_source
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
    scorer: Judge,
    config: AskedConfig,
    *,
    seed: int,
    name: str = "",
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Sample every prompt k = `samples_per_prompt` times, under the same seed at every call.

    Args:
        prompts: the first `config.max_prompts` are used.
        name: of the set, where it is one of several: its metrics are `eval/set/NAME/*`.
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
        seed=derive_seed(seed, "eval", *([name] if name else [])),
        on_progress=on_progress,
    )
    if answers.unanswered:
        raise UserError(
            f"evaluation: {len(answers.unanswered)} prompts were not answered in full, "
            f"the first is {answers.unanswered[0].row}"
        )
    check_verifier(answers.groups)
    prefix = f"eval/set/{name}" if name else "eval"
    samples = [sample for group in answers.groups for sample in group.samples]
    of_turns = turn_statistics(samples)
    metrics = {
        **measures(prefix, answers.groups, config.samples_per_prompt),
        **{f"{prefix}/{kind.replace('/', '_')}": value for kind, value in of_turns.items()},
    }
    for source, groups in by_source(answers.groups).items():
        metrics |= measures(f"{prefix}/source/{source}", groups, config.samples_per_prompt)
    return Evaluation(metrics, answers.groups)


def metrics_of(evaluations: Mapping[str, Evaluation]) -> dict[str, float]:
    """Of all sets, by name; with several, avg@k is the mean over them, each counting alike.

    Its standard error is that of a mean of independent numbers.
    """
    metrics = {k: v for one in evaluations.values() for k, v in one.metrics.items()}
    if "" in evaluations:
        return metrics
    of_sets = [f"eval/set/{name}/avg_at_k" for name in evaluations]
    count = len(of_sets)
    metrics["eval/avg_at_k"] = sum(metrics[name] for name in of_sets) / count
    errors = [metrics.get(f"{name}_se") for name in of_sets]
    known = [error for error in errors if error is not None]
    if len(known) == count:
        metrics["eval/avg_at_k_se"] = sqrt(sum(error**2 for error in known)) / count
    return metrics
