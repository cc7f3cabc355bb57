"""The two oracles of the float64 trainer say the same, where formulas are written out by hand."""

from __future__ import annotations

import pytest

from tests.distributed.test_layouts import ENGINE_RANKS, GRPO, OPTIM, POLICY_RANKS, TWO_UPDATES
from tests.layout_steps import Job, Layout
from tests.models import make_hf_folder
from tests.policies import assert_close_relative
from tests.ragged_batches import ragged_batches
from tests.reference_formulas import HandWritten
from tests.reference_parts import PartsInFloat64
from tests.reference_policy import ReferencePolicy
from tests.reference_step import ReferenceTrainer

KL = {
    "optim": OPTIM,
    "algorithm": {"method": "grpo", "terms": [{"kl": {"coef": 0.3}}]},
}
SETTINGS = {
    "policy ranks": POLICY_RANKS,
    "engine ranks": ENGINE_RANKS,
    "two updates": TWO_UPDATES,
    "entropy bonus": GRPO,
    "KL penalty": KL,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_hf_folder(tmp_path_factory.mktemp("qwen3"), num_hidden_layers=1)


@pytest.mark.parametrize("name", SETTINGS)
def test_parts_in_float64_are_the_papers_formulas(name, folder):
    """Step after step; links see scores that are rounded to float32."""
    batches = ragged_batches(seed=0, shrunk=8)[:2]
    job = Job(folder, SETTINGS[name], batches)
    config = job.config(Layout())
    by_hand = ReferenceTrainer(
        ReferencePolicy(folder, config), config, HandWritten(config.algorithm)
    )
    by_parts = ReferenceTrainer(ReferencePolicy(folder, config), config, PartsInFloat64(config))
    for batch in batches:
        expected, found = by_hand.step(batch), by_parts.step(batch)
        assert found.losses == pytest.approx(expected.losses, rel=1e-6)
        assert found.grad_norms == pytest.approx(expected.grad_norms, rel=1e-6)
        assert_close_relative(found.gradients, expected.gradients, 1e-6)
        assert_close_relative(found.weights, expected.weights, 1e-6)
