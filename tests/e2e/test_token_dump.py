"""A run says what it decided of each token, once a step, and pays for it only where it is asked."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from tests.e2e.programs import make_workspace, metrics_of, succeed
from tests.models import hf_tensors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = make_workspace(tmp_path_factory.mktemp("tokens"), num_hidden_layers=1)
    succeed("train", folder / "train.yaml", "log.dump_tokens=all", "checkpoint.every=1")
    return folder


def tables(run):
    return {path.name: pq.read_table(path) for path in sorted(run.glob("samples/*.parquet"))}


def test_tokens_are_those_of_the_samples(workspace):
    for name, table in tables(workspace / "run").items():
        path = (workspace / "run/samples" / name).with_suffix(".jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [line for line in lines if line["kept"]]
        assert table["token_id"].to_pylist() == [t for line in kept for t in line["token_ids"]]
        advantages = [line["advantage"] for line in kept for _ in line["token_ids"]]
        assert table["advantage"].to_pylist() == pytest.approx(advantages, abs=1e-6)
        assert {*table["set"].to_pylist()} == {"", "L+", "L-"}


def test_a_run_that_goes_on_has_each_step_once(workspace, tmp_path):
    settings = (f"run.dir={tmp_path / 'run'}", "checkpoint.every=1", "log.dump_tokens=all")
    succeed("train", workspace / "train.yaml", *settings, "train.steps=1")
    left = tmp_path / "run/samples/step_000002.parquet"
    left.write_bytes(b"of a life that was cut short")
    succeed("train", workspace / "train.yaml", *settings)
    found, expected = tables(tmp_path / "run"), tables(workspace / "run")
    assert {**found} == {**expected}
    assert sorted(found) == ["step_000001.parquet", "step_000002.parquet"]


def test_nothing_is_computed_that_is_not_asked_for(workspace, tmp_path):
    succeed("train", workspace / "train.yaml", f"run.dir={tmp_path}/run", "log.dump_tokens=none")
    assert not tables(tmp_path / "run")
    assert all("time/dump_s" in step for step in metrics_of(workspace / "run"))
    assert not any("time/dump_s" in step for step in metrics_of(tmp_path / "run"))
    with_tokens, without = (
        hf_tensors(run / "hf/final") for run in (workspace / "run", tmp_path / "run")
    )
    assert all(tensor.equal(without[name]) for name, tensor in with_tokens.items())
