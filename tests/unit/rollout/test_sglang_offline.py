"""What the SGLang engine does before it meets a server."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from megatron_stare.config import RolloutConfig, SamplingConfig, ServersConfig
from megatron_stare.errors import UserError
from megatron_stare.rollout.sglang.checksums import Hashing
from megatron_stare.rollout.sglang.client import sampling_parameters
from megatron_stare.rollout.sglang.cpu import sgl_kernel
from megatron_stare.rollout.sglang.registry import register, registered_urls
from megatron_stare.rollout.sglang.serve import (
    ServeOptions,
    running_servers,
    server_command,
    server_environment,
)
from tests.models import make_hf_folder


def options(model: Path, **changes) -> ServeOptions:
    settings = {
        "model": model,
        "python": Path("/bin/true"),
        "servers": 2,
        "host": "127.0.0.1",
        "port": 0,
        "registry": model / "registry",
        "dtype": "bfloat16",
        "tensor": 1,
        "num_gpus": 0,
        "deadline_s": 5.0,
    }
    return ServeOptions(**(settings | changes))


def test_registered_servers_are_found_by_their_urls(tmp_path):
    register(tmp_path, "http://10.0.0.2:30000", pid=2)
    gone = register(tmp_path, "http://10.0.0.1:30000", pid=1)
    assert registered_urls(tmp_path) == ["http://10.0.0.1:30000", "http://10.0.0.2:30000"]
    gone.unlink()
    assert registered_urls(tmp_path) == ["http://10.0.0.2:30000"]
    assert registered_urls(tmp_path / "not there yet") == []


def test_a_file_that_is_no_registration_is_named(tmp_path):
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(UserError, match=r"other\.json: not a server's registration"):
        registered_urls(tmp_path)


@pytest.mark.parametrize("kind", ["embedded", "sglang"])
def test_servers_belong_to_the_sglang_engine_which_needs_them(kind):
    servers = {"urls": ["http://127.0.0.1:1"]} if kind == "embedded" else {}
    with pytest.raises(ValidationError, match="servers belong to engine 'sglang'"):
        RolloutConfig.model_validate({"engine": kind, "servers": servers})


@pytest.mark.parametrize("url", ["127.0.0.1:30000", "http://127.0.0.1:30000/", "ftp://host:1"])
def test_a_url_is_a_scheme_a_host_and_a_port(url):
    with pytest.raises(ValidationError, match="expected scheme, host and port"):
        ServersConfig(urls=(url,))


def test_urls_and_a_registry_exclude_each_other():
    with pytest.raises(ValidationError, match="give one of them"):
        ServersConfig(urls=("http://127.0.0.1:1",), registry=Path("servers"))


def test_a_whole_distribution_is_asked_for_in_the_servers_words():
    sent = sampling_parameters(SamplingConfig(top_k=0), [5, 7], max_new_tokens=9, seed=2**63 - 1)
    assert sent["top_k"] == -1
    assert sent["stop_token_ids"] == [5, 7]
    assert sent["sampling_seed"] == 2**63 - 1
    assert json.loads(json.dumps(sent)) == sent


def test_checksums_are_of_fused_and_padded_tensors_in_any_order_of_arrival():
    torch.manual_seed(0)
    q, k, v = torch.randn(4, 8), torch.randn(2, 8), torch.randn(2, 8)
    embedding, down = torch.randn(70, 8), torch.randn(8, 40)
    layer = "model.layers.0"
    tensors = {
        f"{layer}.self_attn.v_proj.weight": v,
        f"{layer}.mlp.down_proj.weight": down,
        f"{layer}.self_attn.k_proj.weight": k,
        "model.embed_tokens.weight": embedding,
        f"{layer}.self_attn.q_proj.weight": q,
    }
    checksums = Hashing(reversed(tensors)).checksums(None)
    for name, tensor in tensors.items():
        checksums.add(name, tensor)
    assert checksums.hashes == {
        f"{layer}.self_attn.qkv_proj.weight": sha(torch.cat([q, k, v])),
        "model.embed_tokens.weight": sha(torch.cat([embedding, torch.zeros(58, 8)])),
        f"{layer}.mlp.down_proj.weight": sha(torch.cat([down, torch.zeros(8, 24)], dim=1)),
    }
    assert checksums.differing(checksums.hashes) == []
    assert checksums.differing({}) == list(checksums.hashes)


def sha(tensor):
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:16]


def test_servers_on_gpus_get_their_own(tmp_path):
    on_gpus = options(tmp_path, num_gpus=4, tensor=2)
    assert server_environment(on_gpus, 1)["CUDA_VISIBLE_DEVICES"] == "2,3"
    command = server_command(on_gpus, 1, 30001)
    assert "--device" not in command
    assert command[command.index("--tp-size") + 1] == "2"


def test_servers_draw_different_samples(tmp_path):
    seeds = []
    for number in range(2):
        command = server_command(options(tmp_path), number, 30000)
        seeds.append(command[command.index("--random-seed") + 1])
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"python": Path("/no/python")}, "--python /no/python: no such file"),
        ({"tensor": 2}, "--tensor 2: expected 1 on a CPU"),
        ({"num_gpus": 1}, "--servers 2 x --tensor 1: expected at most the 1 GPUs"),
        ({}, "ended with exit code 0 before it was up"),
    ],
)
def test_servers_that_cannot_start_are_an_error_that_says_why(tmp_path, changes, message):
    model = make_hf_folder(tmp_path / "model")
    with pytest.raises(UserError, match=message), running_servers(options(model, **changes)):
        pass
    assert registered_urls(tmp_path / "model/registry") == []


def test_the_stand_in_for_cuda_kernels_refuses_to_compute():
    with pytest.raises(NotImplementedError, match="copy_all is a CUDA kernel"):
        sgl_kernel.copy_all(1, key=2)
