"""Methods against the formulas of their papers, on batches with every kind of group and mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from megatron_stare.algorithms.offline import run_links, run_loss
from tests.unit.algorithms import plain_formulas as plain
from tests.unit.algorithms.plain_formulas import by_group, lengths_of, mask_of, means_of

Samples = Sequence[dict[str, Any]]

OF_SAMPLES: dict[str, tuple[Any, Callable[[Samples], np.ndarray]]] = {
    "grpo": ("grpo", lambda s: by_group(s, plain.grpo)),
    "opo": ("opo", lambda s: by_group(s, plain.opo, lengths_of(s))),
    "qae": ("qae", lambda s: by_group(s, plain.qae)),
    "ngrpo": ("ngrpo", lambda s: by_group(s, plain.ngrpo)),
    "unlikeliness": (
        "unlikeliness",
        lambda s: by_group(s, plain.unlikeliness, means_of(s, "logprobs")),
    ),
    "adora": ("adora", lambda s: by_group(s, plain.adora, lengths_of(s))),
    "hapo_baseline": (
        ["hapo_baseline"],
        lambda s: by_group(s, plain.hapo_baseline, lengths_of(s)),
    ),
    "canon": (
        [{"canon": {"mu": 0.3, "alpha": 0.8, "beta": 0.1, "max_length": 1}}],
        lambda s: by_group(s, plain.canon, means_of(s, "entropies")),
    ),
    "a_grae": ([{"a_grae": {"alpha": 0.5}}], plain.a_grae),
    "gpg": ("gpg", plain.gpg),
    "dgpo_difficulty": ("dgpo_difficulty", plain.dgpo_difficulty),
}
each_seed = pytest.mark.parametrize("seed", [0, 1, 2])


def assert_close(found: Sequence[Sequence[float]], expected: Sequence[np.ndarray]) -> None:
    for row, values in zip(found, expected, strict=True):
        np.testing.assert_allclose(row, values, rtol=2e-6, atol=2e-6)


@each_seed
@pytest.mark.parametrize("name", OF_SAMPLES)
def test_advantages_of_samples(name, seed):
    links, formula = OF_SAMPLES[name]
    samples = plain.ragged_samples(seed)
    credit, _ = run_links(links, samples)
    pairs = zip(formula(samples), samples, strict=True)
    assert_close(credit["advantages"], [advantage * mask_of(sample) for advantage, sample in pairs])


@each_seed
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_returns_skip_masked_tokens_and_are_whitened_over_the_others(seed, gamma):
    samples = plain.ragged_samples(seed)
    returns = []
    for sample in samples:
        later = np.cumsum(mask_of(sample)[::-1])[::-1] - 1.0
        returns.append(sample["reward"] * gamma**later)
    masks = [mask_of(sample) for sample in samples]
    counted = np.concatenate([row[mask] for row, mask in zip(returns, masks, strict=True)])
    scale = np.sqrt(counted.var(ddof=1) + 1e-8)
    credit, _ = run_links([{"reinforce_plus_plus": {"gamma": gamma}}], samples)
    pairs = zip(returns, masks, strict=True)
    assert_close(credit["advantages"], [(row - counted.mean()) / scale * m for row, m in pairs])


@each_seed
def test_hindsight_moves_an_advantage_by_where_entropy_stands_in_its_group(seed):
    samples = plain.ragged_samples(seed)
    advantages, expected = by_group(samples, plain.grpo), []
    for sample, advantage in zip(samples, advantages, strict=True):
        siblings = [other for other in samples if other["group"] == sample["group"]]
        pool = np.concatenate([np.array(s["entropies"])[mask_of(s)] for s in siblings])
        spread = pool.std() or np.inf
        score = (np.array(sample["entropies"]) - pool.mean()) / spread
        bound = abs(advantage) / 2
        moved = advantage + 0.2 * np.sign(advantage) * score.clip(-bound, bound)
        expected.append(moved * mask_of(sample))
    assert_close(run_links("eapo", samples)[0]["advantages"], expected)


@each_seed
@pytest.mark.parametrize("shape", ["linear", "exponential"])
def test_steer_weighs_by_what_a_token_would_move(seed, shape):
    samples = plain.ragged_samples(seed)
    moved = []
    for sample, advantage in zip(samples, by_group(samples, plain.grpo), strict=True):
        logs = np.array(sample["logprobs"])
        moved.append(np.abs(advantage * (1 - np.exp(logs)) * (logs + sample["entropies"])))
    masks = [mask_of(sample) for sample in samples]
    pool = np.concatenate([row[mask] for row, mask in zip(moved, masks, strict=True)])
    if shape == "linear":
        weights = [1.2 - (row - pool.min()) * 0.4 / np.ptp(pool) for row in moved]
    else:
        weights = [(0.8 ** (row / max(pool.max(), 0.02))).clip(0.8, 1) for row in moved]
    credit, _ = run_links(
        ["grpo", {"steer": {"shape": shape, "w_min": 0.8, "w_max": 1.2}}], samples
    )
    found = [np.array(row)[mask] for row, mask in zip(credit["weights"], masks, strict=True)]
    assert_close(found, [row[mask] for row, mask in zip(weights, masks, strict=True)])


Losses = Callable[[float, np.ndarray], tuple[np.ndarray, np.ndarray]]


def ce_gppo(a: float, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bounded = np.where((a < 0) & (r < 0.8), 0.75 * 0.8, np.where((a > 0) & (r > 1.2), 1.2, r))
    return -a * bounded, -a * bounded


def dgpo(a: float, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    faded = np.where((a < 0) & (r < 0.8), r**2 / 0.8, r)
    faded = np.where((a > 0) & (r > 1.2), np.sqrt(1.2 * r), faded)
    return -a * faded, -a * faded


def sapo(a: float, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tau = 1.0 if a > 0 else 1.05
    gate = 1 / (1 + np.exp(-tau * (r - 1)))
    return -a * 4 / tau * gate, -a * 4 * gate * (1 - gate) * r


def clip(a: float, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    loss = np.maximum(-a * r, -a * r.clip(0.8, 1.28))
    return loss, np.where((r > 1.28) if a > 0 else (r < 0.8), 0.0, -a * r)


@each_seed
@pytest.mark.parametrize(
    ("method", "formula"),
    [("grpo", clip), ("ce_gppo", ce_gppo), ("dgpo_decoupled", dgpo), ("sapo", sapo)],
)
def test_losses_of_tokens_and_their_gradients(method, formula, seed):
    samples = plain.ragged_samples(seed)
    advantages = by_group(samples, plain.grpo)
    credit = {
        "advantages": [[a] * len(s["mask"]) for a, s in zip(advantages, samples, strict=True)]
    }
    outcome = run_loss(method, samples, credit)
    lengths = lengths_of(samples)
    losses, gradients = [], []
    for sample, advantage in zip(samples, advantages, strict=True):
        mask = mask_of(sample)
        ratios = np.exp(np.array(sample["current_logprobs"]) - sample["logprobs"])
        loss, slope = formula(advantage, ratios)
        mean = 1 / lengths.sum()
        if method == "sapo":  # Of samples.
            mean = 1 / max(1, mask.sum()) / (lengths > 0).sum()
        losses.append(loss * mask)
        gradients.append(slope * mean * mask)
    assert_close(outcome.losses, losses)
    assert_close(outcome.gradients, gradients)
