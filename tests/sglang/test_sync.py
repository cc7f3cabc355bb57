"""Weights to real servers by every transport: all of them, only right ones, and in bounded time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch

import megatron_stare.policy  # noqa: F401  (brings in Megatron-Core the way it has to be)
from megatron_stare.config.policy import ModelConfig, ParallelConfig
from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.sglang.commands import server_command, server_environment
from megatron_stare.engines.sglang.ports import free_ports
from megatron_stare.engines.sglang.serve import running_servers
from megatron_stare.engines.sglang.sync.checksums import Checksums, checksum_key
from megatron_stare.engines.sglang.sync.recipients import Recipients
from megatron_stare.engines.sglang.sync.server_layout import ServerLayout
from megatron_stare.errors import UserError
from megatron_stare.policy.groups import build_groups
from megatron_stare.policy.model import named_parameters
from megatron_stare.weights.export import export_hf_tensors
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.names import hf_shapes
from tests.models import hf_tensors, make_hf_folder
from tests.policies import load_policy
from tests.requests_of import requests_of
from tests.sglang.servers import needs_servers, one_server
from tests.sglang.test_engine import PROMPTS, assert_logprobs_of, num_generated, open_engine
from tests.worlds import run_world

pytestmark = needs_servers

TRANSPORTS = ("disk", "tensor", "distributed")
STREAMS = ("tensor", "distributed")
SMALL = {"bucket_mib": 0.1}
"""About six buckets."""
FAST = {"sync_deadline_s": 5.0, "health_deadline_s": 4.0}


class Urls:
    """Servers for `open_engine` in another process."""

    def __init__(self, urls):
        self.urls = urls


@pytest.fixture(scope="module")
def wide_server(model, tmp_path_factory):
    """The URL of a server of two tensor-parallel ranks."""
    (port,), folder = free_ports("127.0.0.1", 1), tmp_path_factory.mktemp("wide")
    options = one_server(model, folder, port=port, tensor=2)
    environment = server_environment(options, 0, folder) | {
        "SGLANG_CPU_OMP_THREADS_BIND": "0|1",
        # What torch brings would be taken for a sign of GPUs.
        "SGLANG_NCCL_SO_PATH": "/none",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            server_command(options, 0, port),
            env=os.environ | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield wait_until_up(f"http://127.0.0.1:{port}", process, folder / "log")
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.mark.parametrize("tensor", [1, 2])
def test_servers_get_all_of_a_policys_weights(servers, trained, tmp_path, tensor):
    results = run_world(tensor, push, tensor, servers.urls, trained, tmp_path, TRANSPORTS)
    for transport in TRANSPORTS:
        assert_generated_by(results[0][transport], trained)


@pytest.mark.parametrize("tensor", [1, 2])
def test_a_tensor_parallel_server_gets_all_of_them(wide_server, trained, tmp_path, tensor):
    results = run_world(tensor, push, tensor, [wide_server], trained, tmp_path, TRANSPORTS)
    for transport in TRANSPORTS:
        assert_generated_by(results[0][transport], trained)


def test_a_server_gets_experts_and_all_that_it_has_is_compared(tmp_path):
    trained = make_hf_folder(tmp_path / "trained", "qwen3_moe", seed=2)
    model = make_hf_folder(tmp_path / "model", "qwen3_moe", seed=1)
    with running_servers(one_server(model, tmp_path / "registry")) as servers:
        urls = [server.url for server in servers]
        (samples,) = run_world(1, push, 1, urls, trained, tmp_path, TRANSPORTS)
        asked = {"action": "checksum"}
        (rank,) = httpx.post(f"{urls[0]}/weights_checker", json=asked).json()["ranks"]
    for transport in TRANSPORTS:
        assert_generated_by(samples[transport], trained)
    shape, tensors = read_hf_config(trained), hf_tensors(trained)
    compared = Checksums(hf_shapes(shape), ServerLayout("cpu", 1, shape.num_kv_heads), None)
    for name, tensor in tensors.items():
        compared.add(name, tensor)
    assert compared.hashes == {checksum_key(k, 0): v for k, v in rank["checksums"].items()}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_wrong_tensor_is_refused_before_a_server_sees_it(servers, model, tmp_path, transport):
    tensors = hf_tensors(model)
    with open_engine(servers, model, tmp_path, transport=transport, **SMALL) as (engine, messages):
        with pytest.raises(ValueError, match=r"'model\.norm\.wait' is not a parameter"):
            engine.update_weights([*tensors.items(), ("model.norm.wait", torch.ones(48))], 1)
        with pytest.raises(ValueError, match=r"'model\.norm\.weight' has shape \[47\]"):
            engine.update_weights((tensors | {"model.norm.weight": torch.ones(47)}).items(), 1)
        with pytest.raises(ValueError, match="are missing"):
            engine.update_weights(list(tensors.items())[1:], 1)
        engine.update_weights(tensors.items(), 2)
        assert_generated_by(sample_from(engine), model)
        assert messages == []


def test_servers_of_other_sizes_are_left_out_and_live(servers, model, tmp_path):
    narrow = make_hf_folder(tmp_path / "narrow", "qwen3", intermediate_size=64)
    with (
        open_engine(servers, narrow, tmp_path, transport="tensor") as (engine, _),
        pytest.raises(UserError, match=r"serves another network .*mlp\.down_proj\.weight is"),
    ):
        engine.update_weights(hf_tensors(narrow).items(), 1)
    with open_engine(servers, model, tmp_path, transport="tensor") as (engine, _):
        engine.update_weights(hf_tensors(model).items(), 1)
        assert_generated_by(sample_from(engine), model)


def test_a_server_whose_weights_differ_gives_nothing_until_they_do_not(
    servers, trained, tmp_path, monkeypatch
):
    """All tensors are compared at first and again after that, else a share of them."""
    num_skipped = []
    compare = Recipients.checksums

    async def comparing(recipients, skipped):
        num_skipped.append(len(skipped))
        return await compare(recipients, skipped)

    monkeypatch.setattr(Recipients, "checksums", comparing)
    url = servers.urls[0]
    with open_engine(servers, trained, tmp_path, transport="tensor", **SMALL) as (engine, messages):
        engine.update_weights(overwritten_meanwhile(trained, url), 1)
        (message,) = messages
        assert message.startswith(f"{url}: out until the next weights: its model.")
        assert message.endswith(" is not what was sent")
        before = num_generated(servers)
        assert_generated_by(sample_from(engine), trained)
        after = num_generated(servers)
        assert sorted(after[log] - before[log] for log in before) == [0, 12]
        for version in (2, 3):
            engine.update_weights(hf_tensors(trained).items(), version)
        assert_generated_by(sample_from(engine), trained)
        assert len(messages) == 1
        assert min(num_generated(servers)[log] - after[log] for log in before) > 0
    first, again, share = num_skipped
    assert first == again == 0 < share


def test_a_server_whose_model_is_elsewhere_is_reported_once(servers, trained, tmp_path):
    elsewhere = servers.model.rename(servers.model.with_name("elsewhere"))
    try:
        with open_engine(servers, trained, tmp_path) as (engine, messages):
            for version in (1, 2):
                engine.update_weights(hf_tensors(trained).items(), version)
            assert sorted(message.partition(": its model's")[0] for message in messages) == (
                servers.urls
            )
            assert_generated_by(sample_from(engine), trained)
    finally:
        elsewhere.rename(servers.model)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_nothing_of_a_transport_is_left_behind(servers, model, tmp_path, transport):
    with open_engine(servers, model, tmp_path, transport=transport) as (engine, _):
        engine.update_weights(hf_tensors(model).items(), 1)
        engine.update_weights(hf_tensors(model).items(), 2)
    assert not list(Path("/dev/shm").glob("megatron_stare_*"))
    if transport == "disk":
        assert not list((tmp_path / "weights").iterdir())
    for url in servers.urls:
        assert httpx.get(f"{url}/model_info").json()["weight_version"] == "2"


@pytest.mark.parametrize("transport", STREAMS)
def test_servers_whose_trainer_was_killed_between_begin_and_end_serve_the_next(
    servers, trained, tmp_path, transport
):
    with pytest.raises(AssertionError, match="it died without a result"):
        run_world(1, die_in_a_sync, servers.urls, trained, tmp_path, transport)
    with open_engine(servers, trained, tmp_path, transport=transport, **SMALL, **FAST) as (
        engine,
        messages,
    ):
        engine.update_weights(hf_tensors(trained).items(), 1)
        assert_generated_by(sample_from(engine), trained)
        assert messages == []


@pytest.mark.parametrize("transport", STREAMS)
def test_a_server_that_falls_silent_in_a_sync_does_not_keep_the_other(
    servers, trained, tmp_path, transport
):
    url, pid = next(iter(servers.pids.items()))
    with open_engine(servers, trained, tmp_path, transport=transport, **SMALL, **FAST) as (
        engine,
        messages,
    ):
        engine.update_weights(hf_tensors(trained).items(), 1)
        randomize(servers.urls)
        try:
            started = time.monotonic()
            engine.update_weights(signalling(trained, pid, signal.SIGSTOP), 2)
            assert time.monotonic() - started < 20
            assert [message.partition(" did not take")[0] for message in messages] == [
                f"{url}: out until the next weights:"
            ]
            assert_generated_by(sample_from(engine), trained)
        finally:
            os.killpg(pid, signal.SIGCONT)
        wait_until_answering(url)
        engine.update_weights(hf_tensors(trained).items(), 3)
        assert len(messages) == 1
        assert_generated_by(sample_from(engine), trained)


@pytest.mark.parametrize(
    ("transport", "message"),
    [("tensor", "is not on loopback; expected"), ("distributed", "sync_host is not set")],
)
def test_servers_elsewhere_need_what_reaches_them(servers, trained, tmp_path, transport, message):
    """Hexadecimal addresses are not recognised as this machine's own."""
    urls = [url.replace("127.0.0.1", "0x7f000001") for url in servers.urls]
    with (
        open_engine(servers, trained, tmp_path, urls, transport=transport) as (engine, _),
        pytest.raises(UserError, match=message),
    ):
        engine.update_weights(hf_tensors(trained).items(), 1)


def push(rank, tensor, urls, folder, tmp_path, transports):
    """Rank 0 pushes by each transport to servers with random weights; what they then generate."""
    with exported(folder, tensor) as export:
        samples = {}
        for version, transport in enumerate(transports, start=1):
            if rank > 0:
                list(export())
                continue
            config = {"transport": transport, **SMALL}
            with open_engine(Urls(urls), folder, tmp_path / transport, **config) as (engine, told):
                randomize(urls)
                engine.update_weights(export(), version)
                samples[transport] = sample_from(engine)
                assert told == []
        return samples


def die_in_a_sync(rank, urls, folder, tmp_path, transport):
    with open_engine(Urls(urls), folder, tmp_path, transport=transport, **SMALL) as (engine, _):
        engine.update_weights(signalling(folder, 0, signal.SIGKILL), 1)


@contextmanager
def exported(folder, tensor):
    """A function that exports a policy with a folder's weights, split over a world."""
    parallel = ParallelConfig(tensor=tensor)
    groups, shape = build_groups(parallel), read_hf_config(folder)
    model = load_policy(shape, ModelConfig(path=folder), parallel, groups)
    parameters = named_parameters([chunk.module for chunk in model])
    yield lambda: export_hf_tensors(
        parameters, shape, tp_group=groups.tp, pp_group=groups.pp, ep_group=groups.ep
    )


def signalling(folder, pid, signum):
    """A folder's tensors, in the middle of which a process group gets a signal; 0 is this one."""
    tensors = list(hf_tensors(folder).items())
    yield from tensors[: len(tensors) // 2]
    os.kill(os.getpid(), signum) if pid == 0 else os.killpg(pid, signum)
    yield from tensors[len(tensors) // 2 :]


def overwritten_meanwhile(folder, url):
    """A folder's tensors, before the last of which a server loses what it has of them."""
    *tensors, last = hf_tensors(folder).items()
    yield from tensors
    randomize([url])
    yield last


def sample_from(engine):
    sampling = SamplingConfig(max_response_tokens=8)
    return list(engine.generate(requests_of(PROMPTS[:3], 4), sampling, seed=0))


def assert_generated_by(samples, folder):
    assert len(samples) == 12
    assert_logprobs_of(folder, samples)


def randomize(urls):
    """Have servers overwrite their weights, so that those sent are seen to arrive."""
    for url in urls:
        body = {"action": "reset_tensors"}
        httpx.post(f"{url}/weights_checker", json=body, timeout=30).raise_for_status()


def wait_until_answering(url, timeout_s=30):
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            httpx.get(f"{url}/model_info", timeout=2)
            return
        except httpx.HTTPError:
            assert time.monotonic() < deadline


def wait_until_up(url, process, log, timeout_s=400):
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if httpx.get(f"{url}/health_generate", timeout=5).status_code == 200:
                return url
        except httpx.HTTPError:
            pass
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.3)
