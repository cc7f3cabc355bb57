"""Servers, connections, disks and trainers that fail: no sample is lost, and none comes twice.

From the mildest fault to those that cost a start of servers.
"""

from __future__ import annotations

import contextlib
import time

import pytest

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.errors import UserError
from tests.children import descendants
from tests.models import hf_tensors
from tests.requests_of import requests_of
from tests.sglang.faults import BreakingProxy, frozen, on_small_disk, slowed, start_trainer
from tests.sglang.servers import is_up, needs_servers, wait_until
from tests.sglang.test_engine import (
    PROMPTS,
    assert_logprobs_of,
    num_generated,
    open_engine,
)

pytestmark = needs_servers

LONG = SamplingConfig(temperature=0.3, max_response_tokens=160)
SHORT = SamplingConfig(max_response_tokens=8)
QUICK = {"health_every_s": 1.0, "health_deadline_s": 6.0}


def test_a_slow_server_is_waited_for(servers, trained, tmp_path):
    pid = next(iter(servers.pids.values()))
    with open_engine(servers, trained, tmp_path, **QUICK) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 1)
        with slowed(pid, stopped_s=0.4, running_s=0.1):
            assert_complete(engine.generate(requests_of(PROMPTS, 4), LONG, seed=0), 4, version=1)
        assert messages == []


def test_a_server_that_hangs_in_mid_answer_loses_its_requests_to_the_other(
    servers, trained, tmp_path
):
    """The deadline of a request is an hour; the silence is noticed long before."""
    url, pid = next(iter(servers.pids.items()))
    with open_engine(servers, trained, tmp_path, **QUICK) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 1)
        generating = engine.generate(requests_of(PROMPTS, 8), LONG, seed=0)
        samples = [next(generating)]
        with frozen(pid):
            samples += generating
        assert_complete(samples, 8, version=1, of=(trained, LONG))
        assert messages == [
            f"{url}: no answer to /health_generate within 6 s; its requests go to other servers",
            f"{url}: out until the next weights: no answer to /health_generate within 6 s",
        ]
        # It goes on where it was stopped, with requests that nobody waits for any more.
        before = num_generated(servers)
        assert_complete(engine.generate(requests_of(PROMPTS, 4), SHORT, seed=1), 4, version=1)
        engine.update_weights(hf_tensors(trained).items(), 2)
        assert_complete(engine.generate(requests_of(PROMPTS, 4), SHORT, seed=2), 4, version=2)
        assert len(messages) == 2
    after = num_generated(servers)
    assert min(after[log] - before[log] for log in before) >= 8


def test_a_server_that_fails_a_request_and_then_hangs_keeps_none_of_the_others(
    servers, trained, tmp_path
):
    """After the first failure nothing but its examination looks at it."""
    whole, hanging = servers.urls
    proxy = BreakingProxy(hanging)
    config = {"health_deadline_s": 6.0}
    with open_engine(servers, trained, tmp_path, [proxy.url, whole], **config) as (
        engine,
        messages,
    ):
        engine.update_weights(hf_tensors(trained).items(), 1)
        generating = engine.generate(requests_of(PROMPTS, 8), LONG, seed=0)
        samples = [next(generating)]
        with frozen(servers.pids[hanging]):
            proxy.break_newest()
            samples += generating
        assert_complete(samples, 8, version=1, of=(trained, LONG))
        assert messages[0].startswith(f"{proxy.url}: no answer to /generate")
        silent = "no answer to /health_generate within 6 s"
        assert messages[1] == f"{proxy.url}: out until the next weights: {silent}"
    proxy.close()


def test_a_stop_is_not_held_up_by_a_server_that_generates_no_more(servers, trained, tmp_path):
    """Its scheduler hangs; the process in front of it goes on, and takes orders to stop."""
    url, pid = next(iter(servers.pids.items()))
    config = {"health_every_s": 3.0, "health_deadline_s": 4.0}
    with open_engine(servers, trained, tmp_path, **config) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 1)
        generating = engine.generate(requests_of(PROMPTS, 8), LONG, seed=0)
        next(generating)
        with contextlib.ExitStack() as stack:
            for child in descendants(pid)[1:]:
                stack.enter_context(frozen(child))
            engine.interrupt()
            start = time.monotonic()
            list(generating)
            assert time.monotonic() - start < 60
        assert messages[0].startswith(f"{url}: no answer to /health_generate")


def test_an_answer_that_breaks_off_is_asked_for_again(servers, trained, tmp_path):
    whole, broken = servers.urls
    proxy = BreakingProxy(broken)
    config = {"urls": [proxy.url, whole], "max_requests": 4}
    with open_engine(servers, trained, tmp_path, **config) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 1)
        proxy.num_left = 4
        samples = engine.generate(requests_of(PROMPTS, 4), SHORT, seed=0)
        assert_complete(samples, 4, version=1, of=(trained, SHORT))
    proxy.close()
    assert proxy.num_left == 0
    assert messages[0].startswith(f"{proxy.url}: no answer to /generate")
    assert messages[-1] == f"{proxy.url}: generates; it takes requests again"


def test_too_few_servers_end_the_run_with_the_problem_of_each(servers, trained, tmp_path):
    """One of two is lost to the network, and another one was never there."""
    left, other = servers.urls
    proxy, gone = BreakingProxy(other), "http://127.0.0.1:9"
    config = {"urls": [left, proxy.url], "min_servers": 2, "start_deadline_s": 1.5}
    with open_engine(servers, trained, tmp_path, **config) as (engine, _):
        engine.update_weights(hf_tensors(trained).items(), 1)
        proxy.close()
        start = time.monotonic()
        with pytest.raises(UserError, match=rf"min_servers=2: .*{proxy.url}: no answer") as error:
            engine.update_weights(hf_tensors(trained).items(), 2)
        assert time.monotonic() - start < 30
        assert left not in str(error.value)
    config = {"urls": [left, gone], "start_deadline_s": 1.5}
    with (
        pytest.raises(UserError, match=f"{gone}: no SGLang server answered .*; 1 of 2 answered"),
        open_engine(servers, trained, tmp_path, **config),
    ):
        pass


def test_a_full_disk_ends_the_run_with_one_line(servers, trained, tmp_path):
    under = on_small_disk(tmp_path, "64k")
    if under is None:
        pytest.skip("this machine allows no mounts in a namespace of one's own")
    trainer = start_trainer(trained, tmp_path, *servers.urls, before=under)
    _, errors = trainer.communicate(timeout=120)
    assert trainer.returncode == 1
    last = errors.splitlines()[-1]
    assert last.startswith("error: rollout.servers.weights_dir: cannot write")
    assert "No space left on device" in last


@pytest.mark.parametrize("moment", ["generating", "syncing"])
def test_servers_of_a_killed_trainer_serve_the_next(servers, trained, tmp_path, moment):
    """Killed in a sync, it dies between the pause, which a server has still to read, and the end"""
    url, pid = next(iter(servers.pids.items()))
    with start_trainer(trained, tmp_path, *servers.urls) as trainer:
        wait_for_line(trainer, "syncing")
        if moment == "syncing":
            with frozen(pid):
                trainer.stdin.close()
                wait_until(lambda: (tmp_path / "version_000050/config.json").exists())
                time.sleep(1.0)
                trainer.kill()
            assert not is_up(url), "the trainer was to leave a server paused"
        else:
            trainer.stdin.close()
            wait_for_line(trainer, "generating")
            trainer.kill()
    with open_engine(servers, trained, tmp_path, **QUICK) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 2)
        assert_complete(engine.generate(requests_of(PROMPTS, 4), SHORT, seed=0), 4, version=2)
        assert messages == []


def test_the_other_server_finishes_what_a_killed_one_had_begun(servers, trained, tmp_path):
    config = {"restart_command": ("sh", "-c", "echo again, $0", "{url}"), "start_deadline_s": 1.5}
    with open_engine(servers, trained, tmp_path, **config) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 1)
        generating = engine.generate(requests_of(PROMPTS, 8), LONG, seed=0)
        samples = [next(generating)]
        url = servers.kill_one()
        samples += generating
        assert_complete(samples, 8, version=1, of=(trained, LONG))
        assert messages[0].startswith(f"{url}: ")
        assert messages[0].endswith("its requests go to other servers")
        assert messages[1].startswith(f"{url}: out until the next weights")

        engine.update_weights(hf_tensors(trained).items(), 2)
        assert f"{url}: out until the next weights: did not take weights 2" in messages[-1]
        assert_complete(engine.generate(requests_of(PROMPTS, 1), SHORT, seed=1), 1, version=2)
    (log,) = (tmp_path / "logs").iterdir()
    assert log.name == f"restart_{url.removeprefix('http://').replace(':', '_')}.log"
    assert log.read_text() == f"again, {url}\n"


def test_a_server_that_dies_between_two_batches_is_missed_and_started_again(
    servers, trained, tmp_path
):
    """It withdraws its announcement; the group for its weights is left without it."""
    config = {
        "registry": servers.registry,
        "transport": "distributed",
        "restart_command": ("sh", "-c", "echo again, $0", "{url}"),
    }
    with open_engine(servers, trained, tmp_path, **config) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 1)
        url = servers.kill_one()
        wait_until(lambda: url not in servers.pids)
        engine.update_weights(hf_tensors(trained).items(), 2)
        assert messages == [f"{url}: is not announced any more"]
        samples = engine.generate(requests_of(PROMPTS, 4), SHORT, seed=0)
        assert_complete(samples, 4, version=2, of=(trained, SHORT))
    (log,) = (tmp_path / "logs").iterdir()
    wait_until(lambda: log.read_text() == f"again, {url}\n")


def test_a_server_that_restarted_gives_nothing_until_it_has_the_weights(servers, trained, tmp_path):
    """The engine does not see the restart: the server is there before and after."""
    with open_engine(servers, trained, tmp_path, **QUICK) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 1)
        url = servers.kill_one()
        servers.revive(url)
        assert_complete(engine.generate(requests_of(PROMPTS, 4), SHORT, seed=0), 4, version=1)
        assert messages == [
            f"{url}: has weights of version 'default', expected '1'; "
            "its requests go to other servers",
            f"{url}: out until the next weights: has weights of version 'default', expected '1'",
        ]
        before = num_generated(servers)
        engine.update_weights(hf_tensors(trained).items(), 2)
        assert_complete(engine.generate(requests_of(PROMPTS, 4), SHORT, seed=1), 4, version=2)
        assert len(messages) == 2
    after = num_generated(servers)
    assert min(after[log] - before[log] for log in before) >= 8


def assert_complete(samples, num_samples, *, version, of=None):
    """Each is there once; and is of the weights of a folder and a sampling, where `of` has them."""
    samples = list(samples)
    expected = sorted((p.uid, i) for p in PROMPTS for i in range(num_samples))
    assert sorted((s.prompt.uid, s.index) for s in samples) == expected
    assert {sample.finish_reason for sample in samples} <= {"stop", "length"}
    assert {v for sample in samples for v in sample.weight_versions} == {version}
    if of is not None:
        folder, sampling = of
        assert_logprobs_of(folder, samples, sampling.temperature)


def wait_for_line(process, line):
    while (found := process.stdout.readline()) != f"{line}\n":
        assert found, process.stderr.read()
