"""What `megatron-stare serve` is asked for, and the command lines that it comes to."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_stare.engines.sglang.addresses import is_loopback
from megatron_stare.errors import UserError
from megatron_stare.launch.environment import (
    check_segments,
    preloading,
    read_api_key,
    visible_gpus,
)
from megatron_stare.weights.hf_config import read_hf_config

_CPU_STAND_INS = Path(__file__).parent / "cpu"
_WITH_API_KEY = Path(__file__).parent / "with_api_key.py"
_MEMORY_SAVER = "--enable-memory-saver"
_NO_TIMEOUT_S = 10**6
_CPU_MEMORY_SHARE = 0.5
"""Of what is free, for weights and caches of all servers: a server takes most of it otherwise."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `megatron-stare serve` is asked for.

    model            Hugging Face folder
    python           of the environment that SGLang is installed in
    servers          how many
    host, port       to listen on; the i-th server on port + i, or on free ports where port is 0
    registry         folder to announce them in; their logs are there too
    dtype            of weights and activations
    tensor           GPUs per server
    num_gpus         that this process sees; 0 starts servers on the CPU
    deadline_s       seconds for a server to come up
    router_python    of the environment of sglang-router, to start one too; None starts none
    api_key_env      name of the environment variable with the API key that they shall ask for
    extra            further arguments of SGLang's launcher
    """

    model: Path
    python: Path
    servers: int
    host: str
    port: int
    registry: Path
    dtype: str
    tensor: int
    num_gpus: int
    deadline_s: float
    router_python: Path | None = None
    api_key_env: str | None = None
    extra: Sequence[str] = ()


def server_command(options: ServeOptions, number: int, port: int) -> list[str]:
    """The command line of the server with this number; no API key is in it."""
    share = _CPU_MEMORY_SHARE / options.servers
    on_cpu = ["--device", "cpu", "--sleep-on-idle", "--mem-fraction-static", f"{share:.3f}"]
    return [
        *_run_module(options.python, "sglang.launch_server", options.api_key_env),
        *("--model-path", str(options.model.resolve())),
        *("--host", options.host, "--port", str(port)),
        *("--dtype", options.dtype, "--tp-size", str(options.tensor)),
        # Token ids in and out: no tokenizer that could end a response at a token of its own.
        "--skip-tokenizer-init",
        # Servers of one seed would draw the same samples of a prompt.
        *("--random-seed", str(number + 1)),
        *("--sampling-defaults", "openai"),
        *(on_cpu if options.num_gpus == 0 else []),
        *options.extra,
    ]


def router_command(options: ServeOptions, port: int, metrics_port: int) -> list[str]:
    """The command line of the router; it starts without workers, the trainer names them.

    Which servers work, and what is tried again, is the trainer's to say: the router's own retries,
    circuit breaker and health checks are off.
    """
    assert options.router_python is not None
    return [
        *_run_module(options.router_python, "sglang_router.launch_router", options.api_key_env),
        *("--host", options.host, "--port", str(port)),
        *("--prometheus-host", options.host, "--prometheus-port", str(metrics_port)),
        *("--policy", "cache_aware"),  # Samples of one prompt share a server's prefix cache.
        *("--disable-retries", "--disable-circuit-breaker", "--disable-health-check"),
        *("--request-timeout-secs", str(_NO_TIMEOUT_S), "--worker-startup-timeout-secs", "60"),
        *("--shutdown-grace-period-secs", "1", "--log-level", "warn"),
    ]


def server_environment(options: ServeOptions, number: int, folder: Path) -> dict[str, str]:
    """What the server with this number finds in its environment, besides this process's own.

    `folder` is for files of these servers alone, on this machine.
    """
    common = {
        "HF_HUB_OFFLINE": "1",
        # Where its ranks find each other; else at a port that is open to every network.
        "SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE": f"file://{folder}/ranks_{number}",
        **({"GLOO_SOCKET_IFNAME": "lo"} if is_loopback(f"http://{options.host}") else {}),
        # A router keeps connections over a trainer's step, and fails requests on those that ended.
        "SGLANG_TIMEOUT_KEEP_ALIVE": "3600",
    }
    if options.num_gpus > 0:
        gpus = visible_gpus(options.num_gpus)[number * options.tensor :][: options.tensor]
        return {**common, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    return {
        **common,
        "SGLANG_USE_CPU_ENGINE": "1",
        "PYTHONPATH": str(_CPU_STAND_INS),
        "OMP_NUM_THREADS": "1",  # Servers side by side must not fight for cores.
        # The few functions it compiles are no faster, and need a C++ compiler and seconds.
        "TORCHDYNAMO_DISABLE": "1",
        **_allocator(options.python),
    }


def check_options(options: ServeOptions) -> None:
    """See that servers can be started so.

    Raises:
        UserError: they cannot.
    """
    read_hf_config(options.model)
    _check_host(options.host)
    read_api_key(options.api_key_env, option="--api-key-env")
    if not options.python.exists():
        raise UserError(
            f"--python {options.python}: no such file, expected the Python of an environment with "
            "SGLang; `make setup-sglang` makes .venv-sglang"
        )
    if options.router_python is not None and not options.router_python.exists():
        raise UserError(
            f"--router-python {options.router_python}: no such file, expected the Python of an "
            "environment with sglang-router; `make setup-sglang` makes .venv-router"
        )
    if options.num_gpus == 0 and options.tensor > 1:
        raise UserError(f"--tensor {options.tensor}: expected 1 on a CPU")
    if options.num_gpus > 0 and options.servers * options.tensor > options.num_gpus:
        raise UserError(
            f"--servers {options.servers} x --tensor {options.tensor}: expected at most the "
            f"{options.num_gpus} GPUs that this process sees"
        )
    if _MEMORY_SAVER in options.extra:
        check_segments(_MEMORY_SAVER)


def _check_host(host: str) -> None:
    try:
        with socket.socket() as listener:
            listener.bind((host, 0))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--host {host!r}: expected an address of this machine ({reason})"
        ) from None


def _allocator(python: Path) -> dict[str, str]:
    """Has a server keep what it frees, in huge pages, if its environment has mimalloc.

    It takes new memory for each bucket of weights, and the system a long time to give it some.
    """
    packages = "lib/python3*/site-packages"
    for library in python.parent.parent.glob(f"{packages}/cmeel.prefix/lib/libmimalloc.so"):
        return {**preloading(library.absolute()), "MIMALLOC_PURGE_DELAY": "-1"}
    return {}


def _run_module(python: Path, module: str, api_key_env: str | None) -> list[str]:
    if api_key_env is None:
        return [str(python), "-m", module]
    # -P: the script's folder is not one to import from.
    return [str(python), "-P", str(_WITH_API_KEY), api_key_env, module]
