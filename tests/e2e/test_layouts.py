"""A run is the same run however it is laid out: real worlds, one by torchrun, on recorded samples.

What it does not show: generation differs between engines, so samples are replayed here.
"""

import math
from pathlib import Path

import pytest

from tests.e2e.processes import Running
from tests.e2e.programs import make_workspace, metrics_of, succeed
from tests.models import hf_tensors

pytestmark = pytest.mark.slow

LAYOUTS = {
    "tp2": (2, ["parallel.tensor=2"]),
    "tp2 with sequence parallelism": (2, ["parallel.tensor=2", "parallel.sequence=true"]),
    "pp2": (2, ["parallel.pipeline=2"]),
    "pp2 in two chunks each": (2, ["parallel.pipeline=2", "parallel.virtual_pipeline=2"]),
    "cp2": (2, ["parallel.context=2"]),
    "tp2 x dp2": (4, ["parallel.tensor=2"]),
    "small micro-batches": (1, ["train.max_tokens_per_micro_batch=64"]),
    "one big micro-batch": (1, ["train.max_tokens_per_micro_batch=4096"]),
    "full recompute": (1, ["model.recompute=full"]),
}

KL = ("algorithm.terms=[{kl: {coef: 0.05}}]",)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    workspace = make_workspace(tmp_path_factory.mktemp("layouts"), tied=True)
    succeed("train", workspace / "train.yaml", *KL)
    return workspace


@pytest.mark.parametrize("name", LAYOUTS)
def test_metrics_and_final_weights_do_not_depend_on_the_layout(reference, tmp_path, name):
    processes, overrides = LAYOUTS[name]
    run = tmp_path / "run"
    _train(run, reference / "train.yaml", *KL, *overrides, processes=processes)
    _assert_same_run(reference / "run", run)


def test_torchrun_starts_the_same_run(reference, tmp_path):
    run = tmp_path / "run"
    succeed("train", reference / "train.yaml", f"run.dir={run}", *KL, processes=2)
    _assert_same_run(reference / "run", run)


def test_experts_over_ranks_change_nothing(tmp_path):
    _assert_split_changes_nothing(
        make_workspace(tmp_path, "qwen3_moe", num_hidden_layers=2), "parallel.expert=2"
    )


def test_ranks_that_share_a_kv_head_change_nothing(tmp_path):
    workspace = make_workspace(tmp_path, "qwen2", num_hidden_layers=2, num_key_value_heads=1)
    _assert_split_changes_nothing(workspace, "parallel.tensor=2")


def _assert_split_changes_nothing(workspace: Path, layout: str) -> None:
    succeed("train", workspace / "train.yaml")
    split = workspace / "split"
    _train(split, workspace / "train.yaml", layout, processes=2)
    _assert_same_run(workspace / "run", split)


def _train(run: Path, config: Path, *overrides: str, processes: int) -> None:
    with Running.start(run, config, *overrides, processes=processes) as running:
        assert running.wait(240) == 0, running.log.read_text()


def _assert_same_run(expected_run: Path, found_run: Path) -> None:
    for expected, found in zip(metrics_of(expected_run), metrics_of(found_run), strict=True):
        assert found.keys() == expected.keys()
        for metric, value in expected.items():
            if not metric.startswith(("time/", "perf/")):
                assert _same(found[metric], value), (metric, value, found[metric])
    expected = hf_tensors(expected_run / "hf" / "final")
    found = hf_tensors(found_run / "hf" / "final")
    assert found.keys() == expected.keys()
    for tensor, value in expected.items():
        assert (found[tensor] - value).abs().max() < 1e-5, tensor


def _same(found, expected) -> bool:
    if expected is None:
        return found is None
    return math.isclose(found, expected, rel_tol=1e-4, abs_tol=1e-6)
