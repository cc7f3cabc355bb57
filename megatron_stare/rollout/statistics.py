"""Metrics of generated groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import compress

import numpy as np

from megatron_stare.algorithms.filters import has_signal
from megatron_stare.rewards.answers import stated_answer, tail
from megatron_stare.rollout.failures import count_failures
from megatron_stare.types import Group, Prompt, Sample

_RUN = 8
_FACTORS = np.random.default_rng(0).integers(2**63, size=_RUN, dtype=np.uint64) | 1


def group_statistics(groups: Sequence[Group]) -> dict[str, float]:
    """`reward/*` and `rollout/*` lengths of groups, of which at least one can be compared.

    To be taken over every generated group, before any is filtered: the groups that are kept are
    those that are partly solved, so their accuracy says little about the policy.
    """
    judged = [reward for group in groups for reward in group.judged.rewards]
    num_all, num_none = count_solved(groups)
    comparable = [group for group in groups if group.can_be_compared]
    return {
        "reward/mean": _mean([reward.value for reward in judged]),
        "reward/accuracy": _mean([reward.correct for reward in judged]),
        "reward/solve_all": num_all / len(comparable),
        "reward/solve_none": num_none / len(comparable),
        "reward/signal_share": _mean([has_signal(verdicts) for verdicts in _verdicts(groups)]),
        "reward/distinct_answers": _mean([_num_answers(group) for group in groups]),
        "reward/tail_share": _mean([bool(tail(s.final_text)) for g in groups for s in g.samples]),
        "reward/failures": float(count_failures(groups)),
        "reward/repeated_share": _mean([repeats(s) for g in groups for s in g.samples]),
        "rollout/response_tokens_p95": float(np.percentile(_lengths(groups), 95)),
        "rollout/long_token_share": _share_of_long(_lengths(groups)),
        **length_statistics("rollout", groups),
    }


def repeats(sample: Sample) -> bool:
    """Whether half of the runs of 8 tokens that the policy chose were there before.

    >>> prompt = Prompt("1", "f:1", "?", (1,), "")
    >>> def said(*ids): return Sample(prompt, 0, "", ids, (), (True,) * len(ids), "stop", (), 0.0)
    >>> repeats(said(*range(40))), repeats(said(*[1, 2, 3] * 10)), repeats(said(1, 1, 1))
    (False, True, False)
    """
    chosen = np.fromiter(compress(sample.token_ids, sample.loss_mask), np.uint64)
    num_runs = len(chosen) - _RUN + 1
    if num_runs < 2:
        return False
    # A number for each run, the same for two others once in 2^64: to sort them is fast.
    keys = sum(factor * chosen[i : i + num_runs] for i, factor in enumerate(_FACTORS))
    num_distinct = 1 + np.count_nonzero(np.diff(np.sort(keys)))
    return bool(2 * num_distinct <= num_runs)


def _share_of_long(lengths: Sequence[int]) -> float:
    """Of all tokens, those of samples that are longer than 95% of them."""
    sizes = np.array(lengths)
    return float(sizes[sizes > np.percentile(sizes, 95)].sum() / max(sizes.sum(), 1))


def length_statistics(prefix: str, groups: Sequence[Group]) -> dict[str, float]:
    """Mean response length, and the share cut at the limit, under a prefix."""
    truncated = [s.finish_reason == "length" for group in groups for s in group.samples]
    return {
        f"{prefix}/response_tokens_mean": _mean(_lengths(groups)),
        f"{prefix}/truncated_share": _mean(truncated),
    }


def staleness_statistics(groups: Sequence[Group], step: int) -> dict[str, float]:
    """`rollout/staleness_*` of the tokens that a step trains on, of its groups, in steps.

    0 where a token was sampled under the weights that the step starts from.
    """
    samples = [sample for group in groups for sample in group.judged.samples]
    versions = np.array([v for s in samples for v in compress(s.weight_versions, s.loss_mask)])
    staleness = step - 1 - versions
    return {
        "rollout/staleness_mean": float(staleness.mean()),
        "rollout/staleness_max": float(staleness.max()),
    }


def demonstration_statistics(groups: Sequence[Group]) -> dict[str, float]:
    """How many groups are demonstrations; nothing where no prompt has one."""
    if not any(group.prompt.demonstration_ids for group in groups):
        return {}
    origins = [sample.origin for group in groups for sample in group.samples]
    return {
        "rollout/demonstrations": float(origins.count("demonstration")),
        "rollout/guides": float(origins.count("guide")),
    }


def propensity_statistics(judged: Sequence[Group]) -> dict[str, float]:
    """What a curriculum that knows its propensities says of all problems, of a step's groups.

    `reward/accuracy_of_all` is Hajek's estimate: sum of accuracies / propensities over the sum of
    1 / propensities, of what was judged; nothing where no propensity is known.
    """
    known = [
        (group.prompt.propensity, _mean([reward.correct for reward in group.judged.rewards]))
        for group in judged
        if group.prompt.propensity is not None and group.judged.rewards
    ]
    if not known:
        return {}
    propensities, accuracies = np.array(known).T
    weights = 1 / propensities
    return {
        "rollout/propensity_min": float(propensities.min()),
        "reward/accuracy_of_all": float((weights * accuracies).sum() / weights.sum()),
    }


def source_statistics(
    drawn: Sequence[Prompt], generated: Sequence[Group], kept: Sequence[Group]
) -> dict[str, float]:
    """`source/NAME/*` of a step, of the sources that it has prompts of; nothing of a single one.

    Args:
        drawn: new in this step.
        generated: before any is filtered, as `group_statistics` takes them.
        kept: the batch.
    """
    counts = Counter(prompt.source for prompt in drawn if prompt.source)
    groups_of, kept_of = by_source(generated), by_source(kept)
    metrics = {}
    for name in sorted({*counts, *groups_of}):
        groups = groups_of.get(name, [])
        metrics[f"source/{name}/drawn"] = float(counts[name])
        metrics[f"source/{name}/completed"] = float(len(kept_of.get(name, [])))
        rewards = [reward for group in groups for reward in group.judged.rewards]
        if rewards:
            metrics[f"source/{name}/reward"] = _mean([reward.value for reward in rewards])
            metrics[f"source/{name}/accuracy"] = _mean([reward.correct for reward in rewards])
        if verdicts := _verdicts(groups):
            shares = [has_signal(each) for each in verdicts]
            metrics[f"source/{name}/signal_share"] = _mean(shares)
        if groups:
            metrics[f"source/{name}/failures"] = float(count_failures(groups))
            metrics |= length_statistics(f"source/{name}", groups)
    return metrics


def by_source(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Groups by the source of their prompts; nothing where there is a single one."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        if group.prompt.source:
            found.setdefault(group.prompt.source, []).append(group)
    return found


def count_solved(groups: Sequence[Group]) -> tuple[int, int]:
    """How many groups have only correct samples, and how many have none, of those compared."""
    verdicts = _verdicts(groups)
    return sum(min(v) == 1.0 for v in verdicts), sum(max(v) == 0.0 for v in verdicts)


def _verdicts(groups: Sequence[Group]) -> list[list[float]]:
    """Of the groups that can be compared."""
    return [
        [reward.correct for reward in group.judged.rewards]
        for group in groups
        if group.can_be_compared
    ]


def _num_answers(group: Group) -> int:
    return len({stated_answer(sample.final_text) for sample in group.samples})


def _lengths(groups: Sequence[Group]) -> list[int]:
    return [sample.num_chosen for group in groups for sample in group.samples]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
