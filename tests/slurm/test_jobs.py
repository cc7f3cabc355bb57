"""Runs as jobs of a real cluster: the scripts are submitted as they were rendered."""

from __future__ import annotations

import pytest
import yaml

from tests.e2e.kills import assert_same_run
from tests.e2e.programs import metrics_of, succeed
from tests.slurm.jobs import SETTINGS, STEPS, needs_cluster, start, submit, write_script

pytestmark = needs_cluster


@pytest.fixture(scope="module")
def whole(cluster, config, tmp_path_factory):
    """A job that nothing disturbs, of the command's own script."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    script = run_dir.with_suffix(".sbatch")
    succeed("slurm", config, *SETTINGS, f"run.dir={run_dir}", "--out", script)
    job = submit(cluster, script, run_dir)
    assert job.wait() == ["COMPLETED"], job.logs
    return job


def test_a_run_on_two_nodes_ends_with_a_model_and_a_log_of_every_rank(whole):
    assert len(metrics_of(whole.run_dir)) == STEPS
    assert (whole.run_dir / "hf/final/config.json").exists()
    assert sorted(path.name for path in (whole.run_dir / "logs").iterdir()) == [
        "rank-0.log",
        "rank-1.log",
    ]
    assert whole.restarts == 0
    assert whole.values("NodeList") == ["n[1-2]"]


def test_a_job_that_is_preempted_saves_waits_and_goes_on_to_the_same_bits(
    cluster, config, whole, tmp_path
):
    job = start(cluster, config, tmp_path / "run")
    job.wait_for_checkpoint()
    # A job of a partition with priority takes all of the nodes; ours hears USR1 first.
    cluster.run(
        *("sbatch", "--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null"),
        *("--wrap", "sleep 1"),
    )
    job.wait_until(lambda: job.restarts == 1)
    assert "USR1 from Slurm: told to save and stop" in job.log, job.logs
    assert "saved" in job.log, job.logs
    assert job.wait() == ["COMPLETED"], job.logs
    assert_same_run(job.run_dir, whole.run_dir)


def test_a_job_that_loses_its_first_node_goes_on_elsewhere_to_the_same_bits(
    cluster, config, whole, tmp_path
):
    job = start(cluster, config, tmp_path / "run")
    job.wait_for_checkpoint()
    lost = job.values("BatchHost")[0]
    cluster.kill_node(lost)
    try:
        job.wait_until(lambda: job.restarts == 1)
        assert job.wait() == ["COMPLETED"], job.logs
    finally:
        cluster.revive_node(lost)
    assert lost not in job.values("BatchHost")
    assert f"removes the lock of job {job.number}" in job.log, job.logs
    assert_same_run(job.run_dir, whole.run_dir)


def test_a_cancelled_job_leaves_no_process_and_a_run_that_another_job_goes_on_with(
    cluster, config, whole, tmp_path
):
    job = start(cluster, config, tmp_path / "run")
    job.wait_for_checkpoint()
    cluster.run("scancel", job.number)
    assert job.wait() == ["CANCELLED"], job.logs
    cluster.wait_until_idle()
    assert cluster.processes() == []
    again = start(cluster, config, tmp_path / "run")
    assert again.wait() == ["COMPLETED"], again.logs
    assert job.values("Restarts") == ["0"]
    assert_same_run(again.run_dir, whole.run_dir)


def test_a_config_that_went_bad_ends_the_job_before_anything_is_started(cluster, config, tmp_path):
    changed = tmp_path / "train.yaml"
    changed.write_text(config.read_text())
    script = write_script(changed, tmp_path / "run")
    tree = yaml.safe_load(config.read_text())
    changed.write_text(yaml.safe_dump(tree | {"parallel": {"tensor": 3}}))
    job = submit(cluster, script, tmp_path / "run")
    assert job.wait() == ["FAILED"], job.logs
    assert job.values("ExitCode") == ["2:0"]
    assert job.restarts == 0
    assert "parallel.tensor=3" in job.log, job.logs
    assert list((tmp_path / "run/logs").iterdir()) == []


def test_a_sweep_is_an_array_with_a_folder_for_each_run(cluster, config, tmp_path):
    job = start(
        *(cluster, config, tmp_path / "run", "slurm.nodes=1", "train.steps=1"),
        'slurm.sweep=["run.seed=1", "run.seed=2 optim.lr=0.002"]',
    )
    assert job.wait() == ["COMPLETED", "COMPLETED"], job.logs
    configs = {
        path.name: yaml.safe_load((path / "config.yaml").read_text())
        for path in job.run_dir.iterdir()
    }
    assert configs.keys() == {"run.seed=1", "run.seed=2,optim.lr=0.002"}
    assert configs["run.seed=1"]["run"]["seed"] == 1
    assert configs["run.seed=2,optim.lr=0.002"]["run"]["seed"] == 2
    assert configs["run.seed=2,optim.lr=0.002"]["optim"]["lr"] == 0.002


def test_a_comparison_is_an_array_of_its_runs_and_a_table_of_them(cluster, config, tmp_path):
    settings = dict(setting.split("=", 1) for setting in SETTINGS)
    tree = {
        "base": str(config),
        "dir": str(tmp_path / "compared"),
        "methods": ["grpo", "stare"],
        "seeds": [1],
        "settings": settings | {"slurm.nodes": 1, "train.steps": 1},
    }
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(tree))
    succeed("compare", path, "--slurm")
    job = submit(cluster, tmp_path / "compared/job.sbatch", tmp_path / "compared")
    assert job.wait() == ["COMPLETED", "COMPLETED"], job.logs
    succeed("compare", path, "--table")
    page = (tmp_path / "compared/comparison.md").read_text()
    assert page.count("| finished |") == 2, page
