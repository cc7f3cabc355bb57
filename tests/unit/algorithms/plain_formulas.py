"""Formulas of methods as their papers have them, in plain numpy, on samples as plain lists."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Samples = Sequence[dict[str, Any]]
OfGroup = Callable[..., Any]
EPS = 1e-6


def ragged_samples(seed: int) -> list[dict[str, Any]]:
    """Groups all right, all wrong, of one sample and mixed; masked tokens; a sample of them alone.

    Entropies are of few values, so that there are ties.
    """
    random = np.random.default_rng(seed)
    samples = []
    for group, size in enumerate((4, 4, 1, 3, 2, 1, 4, 5)):
        for place in range(size):
            count = int(random.integers(1, 9))
            mask = random.random(count) < (0.0 if (group, place) == (6, 0) else 0.8)
            old = -np.abs(random.normal(size=count))
            moved = random.normal(size=(3, count)) * 0.4
            samples.append(
                {
                    "reward": float((1, 0)[group]) if group < 2 else float(random.integers(2)),
                    "group": group,
                    "mask": mask.astype(int).tolist(),
                    "logprobs": old.tolist(),
                    "entropies": (random.integers(0, 6, count) / 4).tolist(),
                    "reference_logprobs": (old + moved[0]).tolist(),
                    "rollout_logprobs": (old + moved[1]).tolist(),
                    "current_logprobs": (old + moved[2]).tolist(),
                }
            )
    return samples


def mask_of(sample: dict[str, Any]) -> np.ndarray:
    return np.array(sample["mask"], dtype=bool)


def by_group(samples: Samples, formula: OfGroup, *columns: np.ndarray) -> np.ndarray:
    """`formula(rewards, *columns)` of each group's samples, `[B]`."""
    ids = np.array([sample["group"] for sample in samples])
    rewards = np.array([sample["reward"] for sample in samples])
    found = np.zeros(len(samples))
    for group in set(ids):
        chosen = ids == group
        found[chosen] = formula(rewards[chosen], *(column[chosen] for column in columns))
    return found


def lengths_of(samples: Samples) -> np.ndarray:
    return np.array([mask_of(sample).sum() for sample in samples])


def means_of(samples: Samples, key: str) -> np.ndarray:
    """Over the tokens that count; 0 of a sample without any."""
    parts = (np.array(sample[key])[mask_of(sample)] for sample in samples)
    return np.array([part.mean() if part.size else 0.0 for part in parts])


def std(rewards: np.ndarray) -> float:
    return float(rewards.std(ddof=1)) if len(rewards) > 1 else 0.0


def grpo(rewards: np.ndarray) -> np.ndarray:
    if len(rewards) == 1:
        return rewards / (1 + EPS)
    return (rewards - rewards.mean()) / (std(rewards) + EPS)


def opo(rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    baseline = (lengths * rewards).sum() / max(1, lengths.sum())
    return rewards - (0.0 if len(rewards) == 1 else baseline)


def qae(rewards: np.ndarray) -> np.ndarray:
    """The ceil(0.4 G)-th smallest reward, by counting."""
    baseline = np.sort(rewards)[math.ceil(4 * len(rewards) / 10) - 1]
    return (rewards - baseline) / (std(rewards) + EPS)


def ngrpo(rewards: np.ndarray) -> np.ndarray:
    if len(rewards) == 1:
        return rewards
    joined = np.append(rewards, 1.0)
    return (rewards - joined.mean()) / (std(joined) + EPS)


def unlikeliness(rewards: np.ndarray, likely: np.ndarray) -> np.ndarray:
    ranks = likely.argsort(kind="stable").argsort(kind="stable")
    return grpo(rewards * (1 - 0.25 * ranks / len(rewards)))


def adora(rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    right = rewards > 0
    longest = lengths[right].max() if right.any() else -np.inf
    mean = lengths[~right].mean() if (~right).any() else -np.inf
    return grpo(rewards) * (1.0 if longest > mean else 0.1)


def hapo_baseline(rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    total = max(1, lengths.sum())
    mean = (lengths * rewards).sum() / total
    spread = math.sqrt((lengths * (rewards - mean) ** 2).sum() / total)
    found = np.where(lengths > 0, (rewards - mean) / (spread + EPS), 0.0)
    if len(rewards) == 1:
        return 0 * rewards
    return grpo(rewards) if np.abs(found).max() >= 5 else found


def canon(rewards: np.ndarray, metric: np.ndarray) -> np.ndarray:
    """mu = 0.3, alpha = 0.8, beta = 0.1, by entropy."""
    if len(rewards) == 1:
        return 0.3 * (rewards + 0.1) + 0.7 * rewards
    order = metric.argsort(kind="stable")
    low, high = order[: len(order) // 2], order[len(order) // 2 :]
    means, found = (rewards[low].mean(), rewards[high].mean()), np.zeros_like(rewards)
    found[high] = 0.3 * (rewards[high] - 0.8 * means[0] + 0.1) + 0.7 * (rewards[high] - means[1])
    found[low] = 0.3 * (0.8 * rewards[low] - means[1] - 0.1) + 0.7 * (rewards[low] - means[0])
    return found


def a_grae(samples: Samples) -> np.ndarray:
    mean = by_group(samples, lambda rewards: rewards.mean())
    sizes = by_group(samples, len)
    progress = (mean / sizes).sum() / (1 / sizes).sum()
    base = np.where(sizes == 1, 0.0, by_group(samples, grpo))
    hard, easy = base / 2 / (np.sqrt(mean) + EPS), base / 2 / (1 - np.sqrt(mean) + EPS)
    found = (1 - progress) * easy + progress * hard
    return np.where(found > 0, found * min(1, progress / 0.5), found)


def gpg(samples: Samples) -> np.ndarray:
    """The share of groups that differ, and their deviations over it."""
    sizes = by_group(samples, len)
    differs = by_group(samples, lambda rewards: std(rewards) > 1e-5)
    share = (differs / sizes).sum() / (1 / sizes).sum()
    return by_group(samples, lambda rewards: rewards - rewards.mean()) / (share + 1e-5)


def dgpo_difficulty(samples: Samples) -> np.ndarray:
    lengths, sizes = lengths_of(samples), by_group(samples, len)
    differs = by_group(samples, np.ptp) > 0
    accuracy = by_group(samples, lambda rewards: rewards.mean() or 1.0)
    weight = np.where(differs, np.exp(-accuracy / 2), 0.0)
    weight *= (differs / sizes).sum() / (weight / sizes).sum()
    tokens = lengths.sum() / lengths[differs].sum()

    def scaled(rewards: np.ndarray) -> np.ndarray:
        centred = rewards - rewards.mean()
        return len(rewards) * centred / (np.abs(centred).sum() + 1e-4)

    return weight * tokens * by_group(samples, scaled)
