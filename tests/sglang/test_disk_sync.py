"""Weights by disk: what is checked before, after, and what remains."""

from __future__ import annotations

import asyncio

import httpx
import pytest
import torch

from megatron_stare.config import SamplingConfig, ServersConfig
from megatron_stare.errors import UserError
from megatron_stare.rollout.sglang.disk_sync import DiskSync
from megatron_stare.rollout.sglang.pool import ServerPool
from megatron_stare.weights.hf_config import read_hf_config
from tests.models import hf_tensors, make_hf_folder
from tests.requests_of import requests_of
from tests.sglang.servers import needs_servers
from tests.sglang.test_engine import PROMPTS, open_engine

pytestmark = needs_servers


def test_only_the_last_version_is_kept_and_none_after_the_run(servers, model, tmp_path):
    with open_engine(servers, model, tmp_path) as (engine, _):
        for version in (1, 2, 3):
            engine.update_weights(hf_tensors(model).items(), version)
        assert [path.name for path in (tmp_path / "weights").iterdir()] == ["version_000003"]
        for url in servers.urls:
            assert httpx.get(f"{url}/model_info").json()["weight_version"] == "3"
    assert list((tmp_path / "weights").iterdir()) == []


def test_every_tensor_is_compared_at_the_first_sync_and_in_turn_later(model, tmp_path):
    sync = DiskSync(model, read_hf_config(model), tmp_path)
    _, first = sync.write(hf_tensors(model).items(), 0, torch.float32)
    later = [sync.write(hf_tensors(model).items(), v, torch.float32)[1] for v in range(1, 9)]
    assert len(first.hashes) == 3 + 4 * 8  # embedding, norm, head; fused: 4 + 4 in each layer
    assert set().union(*(sums.hashes for sums in later)) == set(first.hashes)
    assert all(len(sums.hashes) < len(first.hashes) / 2 for sums in later)


def test_a_server_whose_weights_differ_gets_no_requests(servers, model, tmp_path):
    other = make_hf_folder(tmp_path / "other", "qwen3", seed=3)
    shape, messages = read_hf_config(model), []

    async def load() -> None:
        config = ServersConfig(urls=tuple(servers.urls))
        pool = ServerPool(config, model_type="qwen3", report=messages.append)
        await pool.connect()
        folder, _ = DiskSync(model, shape, tmp_path / "a").write(
            hf_tensors(model).items(), 1, torch.float32
        )
        _, checksums = DiskSync(model, shape, tmp_path / "b").write(
            hf_tensors(other).items(), 1, torch.float32
        )
        try:
            await pool.load(folder, 1, checksums)
        finally:
            await pool.close()

    with pytest.raises(UserError, match="no SGLang server is left"):
        asyncio.run(load())
    assert len(messages) == 2
    assert "and 34 more is not what was sent" in messages[0]


def test_a_wrong_tensor_is_refused_before_it_reaches_a_server(servers, model, tmp_path):
    tensors = hf_tensors(model)
    with open_engine(servers, model, tmp_path) as (engine, _):
        with pytest.raises(ValueError, match=r"'model\.norm\.wait' is not a parameter"):
            engine.update_weights([*tensors.items(), ("model.norm.wait", torch.ones(48))], 1)
        with pytest.raises(ValueError, match=r"'model\.norm\.weight' has shape \[47\]"):
            engine.update_weights((tensors | {"model.norm.weight": torch.ones(47)}).items(), 1)
        with pytest.raises(ValueError, match="wrote the tensors"):
            engine.update_weights(list(tensors.items())[1:], 1)
        engine.update_weights(tensors.items(), 2)
        sampling = SamplingConfig(max_response_tokens=4)
        assert len(list(engine.generate(requests_of(PROMPTS[:1], 2), sampling, seed=0))) == 2


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(servers, model, tmp_path):
    (tmp_path / "weights").write_text("a file, not a folder")
    with (
        open_engine(servers, model, tmp_path) as (engine, _),
        pytest.raises(UserError, match=r"rollout\.servers\.weights_dir: cannot write"),
    ):
        engine.update_weights(hf_tensors(model).items(), 1)


def test_servers_of_another_network_are_refused_at_the_start(servers, tmp_path):
    other = make_hf_folder(tmp_path / "other", "llama")
    with (
        pytest.raises(UserError, match=r"type 'qwen3' .*expected 'llama'"),
        open_engine(servers, other, tmp_path),
    ):
        pass


def test_a_url_where_nothing_answers_is_named(servers, model, tmp_path):
    with (
        pytest.raises(UserError, match=r"http://127\.0\.0\.1:9: no SGLang server answered"),
        open_engine(servers, model, tmp_path, ["http://127.0.0.1:9"], start_deadline_s=1.5),
    ):
        pass
