"""`megatron-stare train` with two real servers, found by their registrations."""

from __future__ import annotations

import json
import math
import time
from threading import Thread

import pytest

from tests.e2e.programs import make_workspace, metrics_of, run_command, succeed
from tests.sglang.faults import BreakingProxy
from tests.sglang.servers import needs_servers, wait_until, workers_of

pytestmark = needs_servers

SGLANG = (
    *("rollout.engine=sglang", "rollout.replay_path=null", "rollout.dynamic_sampling=false"),
    *("rollout.max_response_tokens=24", "train.steps=3"),
)

NUM_RESPONSES = 16
"""Of a batch."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module")
def steps(session_servers, workspace):
    """The metrics of a run: the servers have other weights when it starts."""
    session_servers.start()
    succeed(
        *("train", workspace / "train.yaml", *SGLANG),
        f"rollout.servers.registry={session_servers.registry}",
        f"eval.data.path={workspace}/prompts.jsonl",
        "eval.max_response_tokens=8",
    )
    return metrics_of(workspace / "run")


def test_every_step_trains_on_what_the_servers_sampled(steps):
    assert len(steps) == 4
    for metrics in steps[1:]:
        assert metrics["rollout/completed"] == 4
        assert metrics["rollout/failed"] == metrics["rollout/aborted"] == 0
        for name in ("entropy/mean", "loss/total", "time/generate_s", "time/sync_s"):
            assert math.isfinite(metrics[name]), name


def test_servers_and_trainer_agree_on_logprobs_in_every_step(steps):
    """Each step's samples come from the weights that the step before left behind."""
    for metrics in steps[1:]:
        assert metrics["mismatch/max"] < 1e-4


def test_held_out_problems_are_evaluated_on_the_servers(steps):
    assert "eval/avg_at_k" in steps[0]
    assert "eval/avg_at_k" in steps[-1]


def test_no_weights_are_left_behind(steps, workspace):
    assert list((workspace / "run/sync").iterdir()) == []


def test_a_run_without_an_answering_server_ends_with_one_line(workspace, tmp_path):
    done = run_command(
        *("train", workspace / "train.yaml", *SGLANG, f"run.dir={tmp_path}"),
        *('rollout.servers.urls=["http://127.0.0.1:9"]', "rollout.servers.start_deadline_s=1"),
    )
    assert done.returncode == 2
    assert "http://127.0.0.1:9: no SGLang server answered" in done.stderr.splitlines()[-1]


def test_a_run_outlives_one_of_its_servers(session_servers, tmp_path):
    """Killed in the middle of the third batch, with a router in front."""
    session_servers.start(num_own=2)
    workspace = make_workspace(tmp_path)
    pids = session_servers.pids
    num_syncs = {url: session_servers.log_of(url).count(RESUMED) + 3 for url in pids}
    killed = []

    def at_work():
        """The router may leave one of them without any."""
        return [u for u in pids if is_in_batch(session_servers.log_of(u), num_syncs[u])]

    def kill_in_mid_batch():
        wait_until(at_work, timeout_s=120)
        killed.append(at_work()[0])
        session_servers.kill(killed[0])

    killer = Thread(target=kill_in_mid_batch)
    killer.start()
    done = run_command(
        *("train", workspace / "train.yaml", *SGLANG, "train.steps=4"),
        *("rollout.max_response_tokens=200", "reward.overlong_buffer_tokens=90"),
        "train.max_tokens_per_micro_batch=800",
        f"rollout.servers.registry={session_servers.registry}",
    )
    killer.join()
    assert done.returncode == 0, done.stderr
    assert f"{killed[0]}: " in done.stdout + done.stderr
    assert killed[0] not in session_servers.pids, "`serve` announces a dead server"
    assert workers_of(session_servers.router) == [*pids.keys() - set(killed)]
    steps = metrics_of(workspace / "run")
    assert len(steps) == 4
    for metrics in steps:
        assert metrics["rollout/completed"] == 4
        assert metrics["rollout/failed"] == metrics["rollout/aborted"] == 0
        assert metrics["mismatch/max"] < 1e-4


RESUMED = "POST /continue_generation"


def is_in_batch(log, num_syncs):
    """Whether a server has answered a request since so many syncs."""
    parts = log.split(RESUMED)
    return len(parts) > num_syncs and "POST /generate" in parts[num_syncs]


@pytest.fixture(scope="module")
def older_steps(session_servers, tmp_path_factory):
    """The metrics of a run one step off, whose responses may go on two steps later."""
    session_servers.start()
    workspace = make_workspace(tmp_path_factory.mktemp("older"))
    succeed(
        *("train", workspace / "train.yaml", *SGLANG),
        *(
            "train.steps=6",
            *("rollout.max_response_tokens=100", "reward.overlong_buffer_tokens=90"),
            "train.max_tokens_per_micro_batch=400",
        ),
        *("rollout.one_step_off=true", "rollout.partial_rollouts=true"),
        *("rollout.oversampling=2", "rollout.max_staleness=3"),
        f"rollout.servers.registry={session_servers.registry}",
    )
    return metrics_of(workspace / "run")


def test_responses_go_on_in_later_steps_and_none_is_lost(older_steps):
    carried = [metrics["rollout/carried"] for metrics in older_steps]
    assert max(carried) > 0
    for metrics in older_steps:
        assert metrics["rollout/completed"] == 4
        assert metrics["rollout/failed"] == metrics["rollout/aborted"] == 0


def test_staleness_is_measured_and_bounded(older_steps):
    oldest = [metrics["rollout/staleness_max"] for metrics in older_steps]
    assert oldest[:2] == [0, 1]
    assert 2 <= max(oldest) <= 3


def test_a_batch_is_generated_while_the_one_before_trains(session_servers, tmp_path):
    """No response of the third of three batches arrives before the second one is trained on."""
    session_servers.start()
    workspace = make_workspace(tmp_path)
    proxies = [BreakingProxy(url) for url in session_servers.urls]
    recorded = workspace / "run/metrics.jsonl"
    asked, deadline = [], time.monotonic() + 90

    def is_second_trained():
        return recorded.exists() and len(recorded.read_text().splitlines()) >= 2

    def is_early():
        is_third = sum(proxy.num_answered for proxy in proxies) >= 2 * NUM_RESPONSES
        return is_third and not is_second_trained() and time.monotonic() < deadline

    def count_asked():
        wait_until(is_second_trained, timeout_s=100)
        asked.append(sum(proxy.num_asked for proxy in proxies))

    for proxy in proxies:
        proxy.holds = is_early
    counter = Thread(target=count_asked)
    counter.start()
    succeed(
        *("train", workspace / "train.yaml", *SGLANG, "rollout.one_step_off=true"),
        f"rollout.servers.urls={json.dumps([proxy.url for proxy in proxies])}",
    )
    counter.join()
    for proxy in proxies:
        proxy.close()
    assert time.monotonic() < deadline, "the second batch waited for the third"
    assert asked == [3 * NUM_RESPONSES]
    assert [m["rollout/staleness_max"] for m in metrics_of(workspace / "run")] == [0, 1, 1]


def test_older_tokens_are_corrected(older_steps):
    """One step old, the log-probs of the engine are not those of the policy."""
    assert older_steps[0]["mismatch/max"] < 1e-4
    for metrics in older_steps[1:]:
        assert metrics["mismatch/max"] > 1e-3
        assert math.isfinite(metrics["loss/total"])
