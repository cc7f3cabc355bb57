"""The layout test turns red under the faults it is there to find.

A row is a fault, a layout that shows it, the settings, and what the comparison names: it stops at
the first difference, and that has to be the one the fault makes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.distributed.mutations import MUTATIONS, mutated_steps
from tests.distributed.test_layouts import ENGINE_RANKS, GRPO, LAYOUTS, POLICY_RANKS
from tests.layout_steps import Job, Layout, assert_same_step, merge_ranks
from tests.models import NETWORKS, make_hf_folder
from tests.ragged_batches import ragged_batches
from tests.reference_formulas import HandWritten
from tests.reference_policy import ReferencePolicy
from tests.reference_step import ReferenceTrainer, StepOutcome
from tests.worlds import run_world

pytestmark = pytest.mark.slow

SETTINGS = {
    "policy ranks": (POLICY_RANKS, {}),
    "engine ranks": (ENGINE_RANKS, {}),
    "entropy bonus": (GRPO, {}),
    "one KV head": (POLICY_RANKS, {"num_key_value_heads": 1}),
}
"""Of a run, and what is different in its network."""
FOUND = [
    ("select per rank", "dp2", "policy ranks", "L[+-]"),
    ("break ties by place on the rank", "dp2", "engine ranks", "L[+-]"),
    ("rank per micro-batch", "one process", "policy ranks", "L[+-]"),
    ("token mean per rank", "dp2", "policy ranks", "loss"),
    ("divide by what the correction keeps", "dp2", "engine ranks", "loss"),
    ("hold the entropy's gradient back", "tp2 sp", "entropy bonus", "gradient norm"),
    ("average gradients", "dp2", "policy ranks", "gradient norm"),
    ("leave replicated gradients apart", "tp2 sp", "policy ranks", "gradient norm"),
    ("leave replicated gradients apart", "pp2", "policy ranks", "gradient norm"),
    ("attend across samples", "one process", "policy ranks", "logprobs"),
    ("shift labels after the context split", "cp2", "policy ranks", "logprobs"),
    ("count gradients on every context rank", "cp2", "policy ranks", "gradient norm"),
    ("keep key gradients on the querying rank", "cp2", "policy ranks", "gradient norm"),
    ("keep gradients of shared heads apart", "tp2 sp", "one KV head", "gradient norm"),
]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    root, batches = tmp_path_factory.mktemp("models"), ragged_batches(seed=0)[:1]
    return {
        name: Job(_make_folder(root / name.replace(" ", "_"), change), settings, batches)
        for name, (settings, change) in SETTINGS.items()
    }


def _make_folder(folder: Path, change: dict[str, Any]) -> Path:
    network = NETWORKS["qwen2 tied"] | change
    return make_hf_folder(folder, max_shard_size="1GB", **network)


@pytest.fixture(scope="module")
def expected(jobs):
    return {name: _reference_step(job) for name, job in jobs.items()}


def _reference_step(job: Job) -> StepOutcome:
    config = job.config(Layout())
    trainer = ReferenceTrainer(
        ReferencePolicy(job.folder, config), config, HandWritten(config.algorithm)
    )
    return trainer.step(job.batches[0])


def compare(mutation, layout, settings, jobs, expected) -> None:
    job = {settings: jobs[settings]}
    ranks = run_world(LAYOUTS[layout].processes, mutated_steps, mutation, LAYOUTS[layout], job)
    (found,) = merge_ranks([rank[settings] for rank in ranks])
    assert_same_step(found, expected[settings])


@pytest.mark.parametrize(("mutation", "layout", "settings", "names"), FOUND)
def test_a_fault_is_found(mutation, layout, settings, names, jobs, expected):
    with pytest.raises(AssertionError, match=f"^{names}"):
        compare(mutation, layout, settings, jobs, expected)


def test_nothing_is_found_where_there_is_no_fault(jobs, expected):
    for layout, settings in sorted({row[1:3] for row in FOUND}):
        compare("nothing", layout, settings, jobs, expected)


def test_every_fault_is_tried():
    assert MUTATIONS.keys() == {"nothing", *(row[0] for row in FOUND)}
