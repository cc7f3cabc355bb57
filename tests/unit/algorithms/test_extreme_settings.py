"""The extreme settings that parts take: what they decide stays finite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError

from megatron_stare.algorithms.chain import Chain
from megatron_stare.algorithms.config import AlgorithmConfig
from megatron_stare.algorithms.hooks import Update
from megatron_stare.algorithms.objective import MethodObjective
from megatron_stare.algorithms.table import LINKS, TERMS
from megatron_stare.ops.partials import TokenScores
from tests.contract import decide, links_with, method_with_term, random_batch
from tests.extremes import extremes, numbers

OPTIONAL = {"anneal": {"to": 1.0, "to_step": 9}, "waves": {}}
"""Sections that are off by default, so that their keys can be set one by one."""


def settings_of(kinds: dict) -> list[Any]:
    """(part, its settings) with one number of it at an extreme."""
    found = []
    for name, kind in kinds.items():
        for key, bounds in numbers(kind):
            for text in extremes(bounds):
                section, _, leaf = key.rpartition(".")
                settings = {leaf: yaml.safe_load(text)}
                if section:
                    settings = {section: {**OPTIONAL[section], **settings}}
                found.append(pytest.param(name, settings, id=f"{name} {key}={text}"))
    return found


def chain_of(**section: Any) -> AlgorithmConfig:
    try:
        return AlgorithmConfig.model_validate(section)
    except ValidationError as error:
        pytest.skip(f"refused: {error.errors()[0]['msg']}")


@pytest.mark.parametrize(("name", "settings"), settings_of(LINKS))
def test_a_link_decides_finite_credit(name, settings):
    chain = Chain(chain_of(links=links_with(name), **{name: settings}))
    for number in (1, 2):
        credit = decide(chain, random_batch(number), number, list(range(20))).credit
        for part in (credit.advantages, credit.weights):
            assert part[credit.counted].isfinite().all()


@pytest.mark.parametrize(("name", "settings"), settings_of(TERMS))
def test_a_term_has_a_finite_loss_and_gradient(name, settings):
    method = chain_of(**method_with_term(name), **{name: settings})
    batch = random_batch(seed=0)
    step = batch.step(1, list(range(20)), None)
    objective = MethodObjective.of(method, step, Update(range(20), Chain(method).apply(step)))
    leaves = [(part + 0.1).requires_grad_() for part in (batch.logprobs, batch.entropies)]
    nothing = torch.zeros_like(batch.logprobs)
    loss, _ = objective(TokenScores(*leaves, nothing, nothing), slice(None))
    gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
