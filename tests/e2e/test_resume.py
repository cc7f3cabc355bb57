"""A run that is stopped or killed, and goes on, ends where one ends that never was."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.e2e.kills import assert_same_run, finish, kill_repeatedly, numbers_of, start
from tests.e2e.processes import Running
from tests.e2e.programs import make_workspace

pytestmark = pytest.mark.slow

EMBEDDED = (
    *("rollout.engine=embedded", "rollout.replay_path=null"),
    *("reward.kind=tests.e2e.verifiers:likes_few", "algorithm.filters=[{replay: {count: 2}}]"),
    *("rollout.max_response_tokens=40", "reward.overlong_buffer_tokens=40"),
    *("rollout.max_batch_sequences=4", "algorithm.curriculum=vade", "algorithm.epochs.count=2"),
    *("eval.data.path=WORKSPACE/prompts.jsonl", "eval.every=2"),
    *("eval.max_prompts=2", "eval.max_response_tokens=8"),
)
ONE_STEP_OFF = (
    *(*EMBEDDED, "rollout.one_step_off=true", "data.max_prompt_tokens=80"),
    *("rollout.max_response_tokens=12", "reward.overlong_buffer_tokens=12"),
    "algorithm.curriculum=[{reflection: {threshold: 0.9, instruction: ' {error} is wrong: '}}]",
)


def log_of(run: Path) -> str:
    return " ".join((run / "log.txt").read_text().split())


def num_samples_banked(run: Path, step: int) -> int:
    """In the rollout bank of a step."""
    path = run / "bank" / f"step_{step:06d}.bank"
    return path.read_bytes().count(b'"num_tokens": ') if path.exists() else 0


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("resume"), num_hidden_layers=2)


@pytest.fixture(scope="module")
def embedded(workspace, tmp_path_factory):
    """A run with generated samples, and some of steps before, that was left in peace."""
    whole = finish(workspace, tmp_path_factory.mktemp("embedded") / "whole", *EMBEDDED)
    assert sum(step["rollout/replayed"] for step in numbers_of(whole) if "loss/total" in step) > 0
    return whole


def test_a_run_stopped_by_a_signal_goes_on_as_if_it_had_not_been(workspace, tmp_path, embedded):
    found = stop_and_go_on(workspace, tmp_path / "stopped", *EMBEDDED, number=signal.SIGUSR1)
    assert_same_run(found, embedded)


def test_a_run_stopped_while_it_generates_does_not_evaluate_again(workspace, tmp_path, embedded):
    settings = (*EMBEDDED, "checkpoint.every=0")
    stopped = tmp_path / "stopped"
    with start(workspace, stopped, *settings) as running:
        # Behind the evaluation of step 2.
        running.wait_for(lambda: num_samples_banked(stopped, 3) > 0)
        running.signal(signal.SIGINT)
        assert running.wait() == 75, running.log.read_text()
        assert "stopping, with everything saved" in running.log.read_text()
    found = finish(workspace, stopped, "run.resume=must", *settings)
    assert_same_run(found, embedded)


def test_a_signal_to_any_rank_stops_all(workspace, tmp_path):
    settings = ("checkpoint.every=0",)
    expected = finish(workspace, tmp_path / "whole", *settings, processes=2)
    found = stop_and_go_on(
        *(workspace, tmp_path / "stopped", *settings),
        number=signal.SIGTERM,
        processes=2,
        signalled=[1],
    )
    assert_same_run(found, expected)


def stop_and_go_on(
    workspace: Path,
    run: Path,
    *overrides: str,
    number: int,
    processes: int = 1,
    signalled: list[int] | None = None,
) -> Path:
    """Signal a run, to some ranks or all, and let it end."""
    with start(workspace, run, *overrides, processes=processes) as running:
        running.wait_for_lines(3)
        running.signal(number, signalled)
        assert running.wait() == 75, running.log.read_text()
    return finish(workspace, run, "run.resume=must", *overrides, processes=processes)


def test_fine_tuning_goes_on_as_if_it_had_not_been_stopped(workspace, tmp_path):
    config, settings = workspace / "sft.yaml", ("sft.steps=60", "checkpoint.every=50")
    folders = [tmp_path / "whole", tmp_path / "stopped"]
    for folder in folders:
        with Running.start(folder, config, *settings, command="sft") as running:
            if folder.name == "stopped":
                running.wait_for_lines(3)
                running.signal(signal.SIGTERM)
                assert running.wait() == 75, running.log.read_text()
            else:
                assert running.wait() == 0, running.log.read_text()
    with Running.start(folders[1], config, *settings, "run.resume=must", command="sft") as running:
        assert running.wait() == 0, running.log.read_text()
    assert_same_run(folders[1], folders[0])


def test_a_batch_that_was_collected_ahead_is_trained_on_after_a_crash(workspace, tmp_path):
    expected = finish(workspace, tmp_path / "whole", *ONE_STEP_OFF, "log.dump_samples=true")
    assert "is wrong: " in (expected / "samples" / "step_000006.jsonl").read_text()
    killed = tmp_path / "killed"
    with start(workspace, killed, *ONE_STEP_OFF) as running:
        running.wait_for_lines(6)
        running.kill()
    found = finish(workspace, killed, "run.resume=must", *ONE_STEP_OFF)
    assert_same_run(found, expected)


def test_what_was_generated_before_a_crash_is_not_generated_again(workspace, tmp_path, embedded):
    settings = (*EMBEDDED, "checkpoint.every=4")
    killed = tmp_path / "killed"
    with start(workspace, killed, *settings) as running:
        running.wait_for(lambda: num_samples_banked(killed, 3) >= 6)
        running.kill()
    num_banked = num_samples_banked(killed, 3)
    assert 6 <= num_banked < 16, "it was in the middle of step 3"
    found = finish(workspace, killed, *settings)
    assert_same_run(found, embedded)
    said = re.findall(r"step (\d+): (\d+) of 16 samples had been generated", log_of(found))
    # There was no checkpoint yet: of steps 1 and 2 all is there, of step 3 whole batches of 4.
    assert said == [("1", "16"), ("2", "16"), ("3", str(num_banked // 4 * 4))]
    assert list((found / "bank").iterdir()) == []


def test_another_layout_goes_on_with_the_same_numbers(workspace, tmp_path):
    tensor, pipeline = ("parallel.tensor=2",), ("parallel.pipeline=2",)
    expected = finish(workspace, tmp_path / "whole", *tensor, processes=2)
    moved = tmp_path / "moved"
    with start(workspace, moved, *tensor, processes=2) as running:
        running.wait_for_lines(3)
        running.signal(signal.SIGTERM)
        assert running.wait() == 75, running.log.read_text()
    found = finish(workspace, moved, "run.resume=must", *pipeline, processes=2)
    for step, reference in zip(numbers_of(found), numbers_of(expected), strict=True):
        assert step.keys() == reference.keys()
        for name, value in step.items():
            if reference[name] is None or value is None:
                assert value is reference[name], name
            else:
                assert value == pytest.approx(reference[name], rel=1e-4, abs=1e-5), name
    assert "parallel.pipeline: 1 -> 2" in (found / "log.txt").read_text()


def test_kills_at_random_moments_leave_no_trace(tmp_path):
    """`python -m tests.e2e.kills 30 --seed N` has them at other moments."""
    kill_repeatedly(tmp_path, kills=30, seed=0)
