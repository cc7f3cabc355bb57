"""What the SGLang engine does before it meets a server."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from megatron_stare.config.rollout import RolloutConfig, SamplingConfig, ServersConfig
from megatron_stare.engines.sglang.client import sampling_parameters
from megatron_stare.engines.sglang.commands import (
    ServeOptions,
    check_options,
    router_command,
    server_command,
    server_environment,
)
from megatron_stare.engines.sglang.cpu import sgl_kernel
from megatron_stare.engines.sglang.registry import register, registered_urls
from megatron_stare.engines.sglang.restart import Restarts
from megatron_stare.engines.sglang.serve import running_servers
from megatron_stare.errors import UserError
from tests.models import make_hf_folder
from tests.sglang.servers import wait_until


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
    with pytest.raises(UserError, match=r"other\.json: .*expected a server's registration"):
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


def test_a_server_that_is_named_twice_is_refused():
    with pytest.raises(ValueError, match=r"urls has 'http://127\.0\.0\.1:1' twice"):
        ServersConfig(urls=("http://127.0.0.1:1", "http://127.0.0.1:1"))


def test_a_whole_distribution_is_asked_for_in_the_servers_words():
    sent = sampling_parameters(SamplingConfig(top_k=0), [5, 7], max_new_tokens=9, seed=2**63 - 1)
    assert sent["top_k"] == -1
    assert sent["stop_token_ids"] == [5, 7]
    assert sent["sampling_seed"] == 2**63 - 1
    assert json.loads(json.dumps(sent)) == sent


def test_servers_on_gpus_get_their_own(tmp_path):
    on_gpus = options(tmp_path, num_gpus=4, tensor=2)
    assert server_environment(on_gpus, 1, tmp_path)["CUDA_VISIBLE_DEVICES"] == "2,3"
    command = server_command(on_gpus, 1, 30001)
    assert "--device" not in command
    assert command[command.index("--tp-size") + 1] == "2"


@pytest.mark.parametrize(
    ("given", "second_server"),
    [
        ("4,5,6,7", "6,7"),  # the others are the trainers'
        (" 4, 5 ,6, 7", "6,7"),
        ("7,0,3,1", "3,1"),
        ("GPU-8f2c,GPU-11aa,GPU-90b1,GPU-4e5d", "GPU-90b1,GPU-4e5d"),
        ("MIG-1,MIG-2,MIG-3,MIG-4,MIG-5", "MIG-3,MIG-4"),
        ("4,5,6,7,-1,2", "6,7"),  # CUDA sees none behind a wrong one
    ],
)
def test_servers_stay_on_the_gpus_that_serve_was_given(tmp_path, monkeypatch, given, second_server):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    on_gpus = options(tmp_path, num_gpus=4, tensor=2)
    assert server_environment(on_gpus, 1, tmp_path)["CUDA_VISIBLE_DEVICES"] == second_server


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
@pytest.mark.parametrize(
    "value", ["expandable_segments:True", "backend:native,expandable_segments: true"]
)
def test_servers_that_give_up_memory_take_none_in_expandable_segments(
    tmp_path, monkeypatch, name, value
):
    """SGLang looks at one of the variables only, and would seem to give up what stays taken."""
    model = make_hf_folder(tmp_path / "model")
    monkeypatch.setenv(name, value)
    check_options(options(model))
    with pytest.raises(UserError, match=f"{name}={value} with --enable-memory-saver"):
        check_options(options(model, extra=["--enable-memory-saver"]))
    monkeypatch.setenv(name, value.lower().replace("true", "False"))
    check_options(options(model, extra=["--enable-memory-saver"]))


@pytest.mark.parametrize("transport", ["disk", "tensor", "distributed"])
def test_servers_on_the_trainers_gpus_are_in_no_group_with_it(transport):
    """NCCL takes no two ranks on one GPU."""
    config = {
        "engine": "sglang",
        "colocated": True,
        "servers": {"urls": ["http://127.0.0.1:1"], "transport": transport},
    }
    if transport != "distributed":
        RolloutConfig.model_validate(config)
        return
    with pytest.raises(ValidationError, match="NCCL takes no two processes on one GPU"):
        RolloutConfig.model_validate(config)


def test_servers_on_a_cpu_leave_memory_to_each_other_and_the_trainer(tmp_path):
    command = server_command(options(tmp_path, servers=4), 0, 30000)
    assert float(command[command.index("--mem-fraction-static") + 1]) * 4 == 0.5


def test_servers_on_a_cpu_get_the_allocator_of_their_environment(tmp_path, monkeypatch):
    python, packages = tmp_path / "venv/bin/python", tmp_path / "venv/lib/python3.12/site-packages"
    assert "LD_PRELOAD" not in server_environment(options(tmp_path, python=python), 0, tmp_path)
    library = packages / "cmeel.prefix/lib/libmimalloc.so"
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/other.so")
    environment = server_environment(options(tmp_path, python=python), 0, tmp_path)
    assert environment["LD_PRELOAD"] == f"{library} /usr/lib/other.so"
    on_gpus = options(tmp_path, python=python, num_gpus=2)
    assert "LD_PRELOAD" not in server_environment(on_gpus, 0, tmp_path)


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


def test_a_router_is_found_beside_the_servers_it_is_registered_with(tmp_path):
    register(tmp_path, "http://10.0.0.1:30000", pid=1)
    register(tmp_path, "http://10.0.0.1:40000", pid=2, kind="router")
    assert registered_urls(tmp_path) == ["http://10.0.0.1:30000"]
    assert registered_urls(tmp_path, "router") == ["http://10.0.0.1:40000"]


def test_the_router_listens_where_it_is_told_to_with_its_metrics_too(tmp_path):
    command = router_command(options(tmp_path, router_python=Path("/bin/true")), 5000, 5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--prometheus-host") + 1] == "127.0.0.1"


def test_no_command_line_has_the_key_in_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    keyed = options(tmp_path, router_python=Path("/bin/true"), api_key_env="SOME_KEY")
    for command in (server_command(keyed, 0, 5000), router_command(keyed, 5000, 5001)):
        assert "SOME_KEY" in command
        assert "secret" not in " ".join(command)


def test_a_key_that_is_not_in_the_environment_is_named(tmp_path):
    model = make_hf_folder(tmp_path / "model", "qwen3")
    with (
        pytest.raises(UserError, match="--api-key-env: the environment has no NOT_THERE"),
        running_servers(options(model, api_key_env="NOT_THERE")),
    ):
        pass


def test_a_restart_command_runs_once_until_the_server_is_back(tmp_path):
    restarts = Restarts(("sh", "-c", "echo $0", "{url}"), tmp_path)
    log = tmp_path / "restart_127.0.0.1_1.log"
    for _ in range(2):
        restarts.begin("http://127.0.0.1:1")
    wait_until(lambda: log.read_text() == "http://127.0.0.1:1\n")
    restarts.forget("http://127.0.0.1:1")
    restarts.begin("http://127.0.0.1:1")
    wait_until(lambda: log.read_text().count("\n") == 2)


def test_a_restart_command_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="restart_command: cannot run '/not/there'"):
        Restarts(("/not/there",), tmp_path).begin("http://127.0.0.1:1")
