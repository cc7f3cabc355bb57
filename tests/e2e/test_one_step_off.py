"""Training while the next batch is generated, with the embedded engine in another thread."""

from __future__ import annotations

import pytest
import yaml

from tests.e2e.programs import make_workspace, metrics_of, run_command, succeed

pytestmark = pytest.mark.slow

ONE_STEP_OFF = (
    *("rollout.one_step_off=true", "rollout.engine=embedded", "rollout.replay_path=null"),
    *("rollout.dynamic_sampling=false", "rollout.max_response_tokens=60", "train.steps=4"),
    "reward.overlong_buffer_tokens=60",  # So early, answers are all wrong: let length matter.
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("one_step_off"), num_hidden_layers=2)


@pytest.fixture(scope="module")
def runs(workspace):
    """The same run twice."""
    folders = [workspace / name for name in ("first", "second")]
    for folder in folders:
        succeed("train", workspace / "train.yaml", f"run.dir={folder}", *ONE_STEP_OFF)
    return folders


def test_every_batch_but_the_first_is_one_step_older_than_the_weights_it_trains(runs):
    steps = metrics_of(runs[0])
    assert [metrics["rollout/staleness_max"] for metrics in steps] == [0, 1, 1, 1]
    assert [metrics["rollout/staleness_mean"] for metrics in steps] == [0, 1, 1, 1]
    on_policy = steps[0]["mismatch/max"]
    assert on_policy < 1e-4
    assert all(metrics["mismatch/max"] > 10 * on_policy for metrics in steps[1:])


def test_the_correction_is_on(runs):
    resolved = yaml.safe_load((runs[0] / "config.yaml").read_text())
    assert "tis" in resolved["algorithm"]["links"][-1]
    assert all(metrics["mismatch/correction_mean"] != 1 for metrics in metrics_of(runs[0])[1:])


def test_threads_leave_no_trace_in_the_numbers(runs):
    first, second = (
        [
            {k: v for k, v in metrics.items() if not k.startswith(("time/", "perf/"))}
            for metrics in metrics_of(run)
        ]
        for run in runs
    )
    assert first == second


def test_what_goes_wrong_in_the_other_thread_stops_the_run_with_one_line(workspace, tmp_path):
    done = run_command(
        *("train", workspace / "train.yaml", f"run.dir={tmp_path}", "rollout.one_step_off=true"),
        *("rollout.max_response_tokens=1", "algorithm.correct_stale=false"),
    )
    assert done.returncode == 2
    assert "expected at most max_response_tokens=1" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
