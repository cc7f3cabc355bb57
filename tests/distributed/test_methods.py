"""Every part of the table, trained by `learn` in layouts of every kind: the step of one process.

What one process does is held to float64 for STARE and GRPO in test_layouts.py; here each link
stands in a chain of its own and each term is the policy's, over two updates whose ratios differ,
and no layout may change what comes of it.
"""

from __future__ import annotations

from typing import Any

import pytest

from megatron_stare.algorithms.needs import CUTS, REFERENCE
from megatron_stare.algorithms.table import LINKS, PARTS, TERMS
from tests.contract import ACTS, links_with, method_with_term
from tests.distributed.test_layouts import LAYOUTS, OPTIM
from tests.layout_steps import (
    Job,
    Layout,
    assert_same_step,
    merge_ranks,
    take_steps,
)
from tests.models import NETWORKS, make_hf_folder
from tests.ragged_batches import ragged_batches
from tests.worlds import run_world

pytestmark = pytest.mark.slow
TIMEOUT_S = 20 * len(PARTS)
PATIENCE = {"gtpo": 10.0, "grpo_s": 10.0}
"""They divide by how little entropies differ, and what rounds in these is magnified. Of others 3:
both sides of the comparison are float32."""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    folder = make_hf_folder(tmp_path_factory.mktemp("qwen3"), **NETWORKS["qwen3"])
    batches = ragged_batches(seed=0)[:1]
    # No rollout makes cuts yet, and a run with a link that reads them is refused.
    names = [name for name, kind in LINKS.items() if CUTS not in kind(**ACTS.get(name, {})).needs]
    sections: dict[str, Any] = {name: {"links": links_with(name)} for name in names}
    for name, kind in TERMS.items():
        if REFERENCE not in kind.needs:  # A reference policy is not part of these runs.
            sections[f"term {name}"] = method_with_term(name)
    settings = {"optim": OPTIM, "train": {"updates_per_step": 2}}
    return {
        name: Job(folder, {**settings, "algorithm": section}, batches)
        for name, section in sections.items()
    }


@pytest.fixture(scope="module")
def expected(jobs):
    (steps,) = run_world(1, take_steps, Layout(), jobs, timeout_s=TIMEOUT_S)
    return {name: merge_ranks([ranks]) for name, ranks in steps.items()}


@pytest.mark.parametrize("layout", ["dp2", "cp2"])
def test_no_layout_changes_what_a_part_makes_of_a_step(layout, jobs, expected):
    steps = (take_steps, LAYOUTS[layout], jobs)
    ranks = run_world(LAYOUTS[layout].processes, *steps, timeout_s=TIMEOUT_S)
    for name in jobs:
        (found,) = merge_ranks([rank[name] for rank in ranks])
        (wanted,) = expected[name]
        assert_same_step(found, wanted, PATIENCE.get(name, 3.0))
