"""Steps on pairs in every kind of layout are those of a float64 trainer that has never seen one.

The trainer lets autograd differentiate TRL's formula of whole responses through the network. Pairs
are apart: most have their responses in different micro-batches, or on different ranks.
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from megatron_stare.algorithms.chain import Chain
from megatron_stare.config.prefer import PreferConfig
from megatron_stare.data.examples import batch_of_pairs
from megatron_stare.policy.groups import build_groups, destroy_groups
from megatron_stare.run.learner import Learner, learn
from megatron_stare.types import RolloutBatch
from tests.layout_steps import open_alone, scaled_weights
from tests.models import VOCAB_SIZE, make_hf_folder
from tests.policies import assert_close_relative
from tests.preference_formulas import SECTIONS, Pair
from tests.reference_policy import ReferencePolicy, samples_of
from tests.reference_step import STARTING_SCALE
from tests.worlds import run_world

pytestmark = pytest.mark.slow

LAYOUTS: dict[str, dict[str, Any]] = {
    "dp2": {},
    "tp2 sp": {"tensor": 2, "sequence": True},
    "cp2": {"context": 2},
    "pp2": {"pipeline": 2},
}
METHODS = ("dpo", "simpo", "rpo")
STEPS = 2


class Outcome(NamedTuple):
    """Of a step: loss, gradient norm, what is said of the pairs; and the weights after the last."""

    losses: list[float]
    grad_norms: list[float]
    margins: list[float]
    weights: dict[str, Tensor]


def config_of(folder: Path, method: str, parallel: dict[str, Any]) -> PreferConfig:
    return PreferConfig.model_validate(
        {
            "model": {"path": folder},
            "parallel": parallel,
            "data": {"path": "unused", "max_tokens": 64},
            "algorithm": SECTIONS[method][0],
            "optim": {"lr": 1e-3, "eps": 1e-4, "clip_grad": 0.5},
            "prefer": {"steps": STEPS, "max_tokens_per_micro_batch": 72},
        }
    )


def batches() -> list[RolloutBatch]:
    """Of six pairs each, with prompts of 1 to 9 tokens and responses of 1 to 50."""
    generator = torch.Generator().manual_seed(4)

    def tokens(most: int) -> array[int]:
        length = int(torch.randint(1, most + 1, (), generator=generator))
        return array("i", torch.randint(VOCAB_SIZE, (length,), generator=generator).tolist())

    return [
        batch_of_pairs([(tokens(9), tokens(50), tokens(20)) for _ in range(6)])
        for _ in range(STEPS)
    ]


def take_steps(rank: int, folder: Path) -> dict[str, Outcome]:
    found = {}
    for layout, parallel in LAYOUTS.items():
        groups = build_groups(config_of(folder, METHODS[0], parallel).parallel)
        for method in METHODS:
            config = config_of(folder, method, parallel)
            _, session = open_alone(config, groups)
            reference = scaled_weights(session, config.needs)
            learner = Learner(config, session, Chain(config.algorithm), reference)
            learned = [learn(learner, batch, n) for n, batch in enumerate(batches(), start=1)]
            reports = [learner.chain.report(step.credit, step.step) for step in learned]
            found[f"{layout}: {method}"] = Outcome(
                [step.updates[0].loss for step in learned],
                [step.updates[0].grad_norm for step in learned],
                [report["pairs/margin"] for report in reports],
                dict(session.policy.hf_tensors()),
            )
        destroy_groups()
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_hf_folder(
        *(tmp_path_factory.mktemp("prefer"), "qwen3"),
        max_shard_size="1GB",
        num_hidden_layers=2,
    )


def in_float64(folder: Path, method: str) -> Outcome:
    config = config_of(folder, method, {})
    policy = ReferencePolicy(folder, config)
    losses, norms, margins = [], [], []
    with policy.scaled(STARTING_SCALE), torch.no_grad():
        references = [[policy.score(s)[0] for s in samples_of(batch)] for batch in batches()]
    for batch, reference in zip(batches(), references, strict=True):
        scores = [policy.score(sample)[0] for sample in samples_of(batch)]
        pairs = [
            Pair(scores[i], scores[i + 1], reference[i], reference[i + 1])
            for i in range(0, len(scores), 2)
        ]
        for parameter in policy.parameters.values():
            parameter.grad = None
        loss = SECTIONS[method][1](pairs)
        loss.backward()
        losses.append(loss.item())
        if method == "simpo":
            of_pairs = [2.0 * (pair.chosen.mean() - pair.rejected.mean()) for pair in pairs]
        else:
            of_pairs = [0.1 * (pair.ratios[0] - pair.ratios[1]) for pair in pairs]
        margins.append(torch.stack(of_pairs).mean().item())
        norms.append(policy.clip_and_step())
    return Outcome(losses, norms, margins, policy.weights())


@pytest.fixture(scope="module")
def expected(folder) -> dict[str, Outcome]:
    return {method: in_float64(folder, method) for method in METHODS}


@pytest.fixture(scope="module")
def found(folder) -> dict[str, Outcome]:
    ranks = run_world(2, take_steps, folder)
    assert all(rank[name].losses == ranks[0][name].losses for rank in ranks for name in rank)
    return ranks[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_on_pairs_are_those_of_the_formula_in_float64(layout, method, found, expected):
    step, wanted = found[f"{layout}: {method}"], expected[method]
    assert step.losses == pytest.approx(wanted.losses, abs=1e-5)
    assert step.grad_norms == pytest.approx(wanted.grad_norms, rel=1e-5)
    assert step.margins == pytest.approx(wanted.margins, abs=1e-5)
    assert step.weights.keys() == wanted.weights.keys()
    assert_close_relative(step.weights, wanted.weights, 1e-5)
    assert wanted.losses[1] != pytest.approx(wanted.losses[0], abs=1e-3)
