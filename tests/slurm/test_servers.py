"""Jobs with SGLang servers: they come first, are found, and their loss ends an attempt."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.e2e.programs import REPO, metrics_of
from tests.slurm import stand_in
from tests.slurm.cluster import Cluster, environment_of
from tests.slurm.jobs import needs_cluster, start

pytestmark = needs_cluster

SGLANG = (
    *("rollout.engine=sglang", "rollout.replay_path=null", "rollout.dynamic_sampling=false"),
    *("rollout.max_response_tokens=24", "train.steps=2", "slurm.rollout.dtype=float32"),
)
_PYTHON, _ROUTER = (REPO / f".venv-{name}/bin/python" for name in ("sglang", "router"))


@pytest.fixture
def servers_alive(tmp_path):
    """A file that stand-ins for servers live as long as."""
    path = tmp_path / "alive"
    path.touch()
    return path


@pytest.fixture
def settings(tmp_path, servers_alive):
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nexec {sys.executable} {stand_in.__file__} {servers_alive} "$@"\n'
    )
    python.chmod(0o755)
    registry = f"rollout.servers.registry={tmp_path}/servers"
    return (*SGLANG, registry, f"slurm.rollout.python={python}")


def announced(run_dir: Path) -> list[str]:
    """Hosts of the servers that are up, by attempt."""
    files = sorted((run_dir.parent / "servers").glob("*/*.json"))
    return [json.loads(path.read_text())["url"].split("/")[2].split(":")[0] for path in files]


def test_an_attempt_whose_servers_do_not_come_up_is_followed_by_another_up_to_the_limit(
    cluster, config, tmp_path, settings, servers_alive
):
    servers_alive.unlink()
    job = start(
        *(cluster, config, tmp_path / "run", *settings),
        *("slurm.nodes=1", "slurm.rollout.nodes=1", "slurm.max_restarts=1"),
    )
    assert job.wait() == ["FAILED"], job.logs
    assert job.restarts == 1
    assert job.log.count("the servers of a node ended before they were up") == 2, job.logs
    assert "attempt 1 is the last" in job.log, job.logs
    assert not (tmp_path / "run/logs/rank-0.log").exists()


def test_losing_the_servers_of_a_node_stops_the_trainers_and_every_other_server(
    cluster, config, tmp_path, settings, servers_alive
):
    """Of a heterogeneous job: a node of trainers, and two of servers with GPUs of their own."""
    job = start(
        *(cluster, config, tmp_path / "run", *settings, "slurm.nodes=1", "slurm.rollout.nodes=2"),
        *("slurm.gpus_per_node=1", "slurm.rollout.gpus_per_node=2"),
        *("slurm.max_restarts=0", "checkpoint.grace_s=1"),
    )
    trainer_log = tmp_path / "run/logs/rank-0.log"
    job.wait_until(trainer_log.exists)
    assert "4 servers are up" in job.log, job.logs
    assert len(announced(tmp_path / "run")) == 4
    assert len(set(announced(tmp_path / "run"))) == (2 if cluster.has_namespaces else 1)
    servers_alive.unlink()
    assert set(job.wait()) == {"FAILED"}, job.logs
    assert "the servers of a node ended: told to save and stop" in job.log, job.logs
    cluster.wait_until_idle()
    assert cluster.processes() == []
    assert announced(tmp_path / "run") == []


def test_servers_beside_trainers_have_the_gpus_that_those_leave(
    cluster, config, tmp_path, settings
):
    job = start(
        *(cluster, config, tmp_path / "run", *settings, "slurm.nodes=1"),
        *("slurm.processes_per_node=1", "slurm.gpus_per_node=3"),
    )
    trainer_log = tmp_path / "run/logs/rank-0.log"
    job.wait_until(trainer_log.exists)
    gpus = {step: gpus_of(cluster, step) for step in ("0", "1")}
    assert gpus["0"] | gpus["1"] == {"0", "1", "2"}, gpus
    assert len(gpus["0"]) == 2, gpus
    assert len(gpus["1"]) == 1, gpus
    cluster.run("scancel", job.number)
    assert job.wait() == ["CANCELLED"], job.logs
    cluster.wait_until_idle()
    assert cluster.processes() == []


def gpus_of(cluster: Cluster, step: str) -> set[str]:
    """GPUs that Slurm gave to a step of the job that runs."""
    found = (environment_of(pid) for pid in cluster.processes())
    lists = {env["CUDA_VISIBLE_DEVICES"] for env in found if env.get("SLURM_STEP_ID") == step}
    return set(",".join(lists).split(","))


@pytest.mark.skipif(
    not all((REPO / f".venv-{name}/.setup-stamp").exists() for name in ("sglang", "router")),
    reason="no .venv-sglang or .venv-router: `make setup-sglang` was not run, or failed",
)
def test_a_run_on_two_nodes_with_a_node_of_sglang_server_and_router_ends_with_a_model(
    cluster, config, tmp_path
):
    job = start(
        *(cluster, config, tmp_path / "run", *SGLANG, "slurm.rollout.nodes=1"),
        *(f"rollout.servers.registry={tmp_path}/servers", f"slurm.rollout.python={_PYTHON}"),
        *(
            'slurm.rollout.sglang=["--max-total-tokens", "16384"]',
            f"slurm.rollout.router={_ROUTER}",
        ),
    )
    assert job.wait(seconds=800) == ["COMPLETED"], job.logs
    assert "2 servers are up, one of them a router" in job.log, job.logs
    assert all(step["rollout/completed"] == 4 for step in metrics_of(job.run_dir))
    assert (job.run_dir / "hf/final/config.json").exists()
    assert announced(tmp_path / "run") == []
