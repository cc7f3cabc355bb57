"""Servers as a clock, and the sampler's modes in simulated time."""

from __future__ import annotations

from statistics import mean

import pytest

from megatron_stare.plan.servers import Servers, ServerSpeed, Task
from megatron_stare.plan.timeline import StepTime, simulate_steps
from megatron_stare.plan.weights import tabulated_elements
from tests.unit.plan.jobs import config_of, job_of

SPEED = ServerSpeed(
    token_flops=0.0,
    pair_flops=0.0,
    weight_bytes=3.0,
    token_bytes=0.0,
    flops_s=1.0,
    bytes_s=1.0,
    overhead_s=1.0,
    capacity_tokens=100,
    max_requests=8,
)
"""4 seconds a token, however many responses run."""


def tasks(*lengths: int) -> list[Task]:
    return [Task(key, 0, length, 0) for key, length in enumerate(lengths)]


def test_responses_on_one_server_end_by_length():
    assert list(Servers(SPEED, 1).run(tasks(3, 1, 2))) == [(1, 4.0), (2, 8.0), (0, 12.0)]


def test_what_has_no_room_waits_for_one_that_ends():
    """100 tokens of cache: the third response begins when the first has ended."""
    ends = dict(Servers(SPEED, 1).run(tasks(40, 60, 50)))
    assert ends == {0: 160.0, 1: 240.0, 2: 240.0 + 200.0}


def test_servers_work_side_by_side():
    assert dict(Servers(SPEED, 2).run(tasks(5, 5))) == {0: 20.0, 1: 20.0}


def test_what_is_left_early_has_its_tokens_so_far():
    servers = Servers(SPEED, 2)
    assert next(servers.run(tasks(10, 30, 10, 20))) == (0, 40.0)
    assert dict(servers.unfinished()) == {1: 10, 2: 10, 3: 10}


def test_a_step_reads_weights_and_contexts():
    speed = ServerSpeed(
        token_flops=1.0,
        pair_flops=0.0,
        weight_bytes=10.0,
        token_bytes=1.0,
        flops_s=1.0,
        bytes_s=2.0,
        overhead_s=0.5,
        capacity_tokens=100,
        max_requests=8,
    )
    assert speed.step_seconds(1, 4) == 0.5 + (10 + 4) / 2
    assert speed.step_seconds(20, 4) == 0.5 + 20  # Bound by operations.


@pytest.fixture(scope="module")
def step_times(tmp_path_factory) -> dict[str, StepTime]:
    """The first step after the warm-up of each mode."""
    folder = tmp_path_factory.mktemp("model")
    modes = {
        "in turn": {},
        "oversampling": {"oversampling": 2.0},
        "partial": {"oversampling": 2.0, "partial_rollouts": True, "max_staleness": 2},
        "one step off": {
            "oversampling": 2.0,
            "partial_rollouts": True,
            "max_staleness": 3,
            "one_step_off": True,
        },
    }
    times = {}
    for name, changes in modes.items():
        job = job_of(config_of(folder, rollout=changes))
        held = tabulated_elements(job.entries, job.parallel, 0, job.num_trainers)
        times[name] = simulate_steps(job, held, num_steps=3)
    return times


def seconds(steps) -> float:
    return mean(step.step for step in steps)


def test_each_mode_saves_time(step_times):
    by_mode = [seconds(steps) for steps in step_times.values()]
    assert by_mode == sorted(by_mode, reverse=True)


def test_oversampling_alone_favours_short_responses(step_times):
    tokens = {name: sum(s.response_tokens for s in steps) for name, steps in step_times.items()}
    assert tokens["oversampling"] < tokens["in turn"]
    assert tokens["partial"] > tokens["oversampling"]


def test_what_goes_on_is_not_generated_twice(step_times):
    generated = {name: sum(s.generated for s in steps) for name, steps in step_times.items()}
    assert generated["partial"] < generated["oversampling"]


def test_staleness_is_that_of_the_sampler(step_times):
    staleness = {name: max(s.staleness for s in steps) for name, steps in step_times.items()}
    assert staleness["in turn"] == staleness["oversampling"] == 0.0
    assert 0.0 < staleness["partial"] <= 2.0
    assert 1.0 < staleness["one step off"] <= 3.0
