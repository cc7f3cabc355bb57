"""`megatron-stare serve`: SGLang servers on this machine, started, announced, and ended by pid.

The servers run in an environment of their own (`make setup-sglang`); nothing of SGLang is imported
here. They stay up until this process is told to end (SIGINT or SIGTERM), whatever trainers do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from megatron_stare.errors import UserError
from megatron_stare.rollout.sglang.registry import register
from megatron_stare.weights.hf_config import read_hf_config

_POLL_S = 0.5
_STOP_TIMEOUT_S = 10.0
_CPU_STAND_INS = Path(__file__).parent / "cpu"


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
    num_gpus         of this machine; 0 starts servers on the CPU
    deadline_s       seconds for a server to come up
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
    extra: Sequence[str] = ()


@dataclass(slots=True)
class RunningServer:
    """A server's process, and where it listens. `registration` exists while it is announced."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    registration: Path | None = None

    @property
    def has_ended(self) -> bool:
        """Whether its process is gone."""
        return self.process.poll() is not None


def serve(options: ServeOptions) -> None:
    """Run servers until told to end; returns when all of them are gone.

    Raises:
        UserError: bad options, or a server did not come up.
    """
    told_to_end = contextlib.suppress(KeyboardInterrupt)
    with told_to_end, _termination_as_interrupt(), running_servers(options) as servers:
        for server in servers:
            print(f"{server.url}\tpid {server.process.pid}\tlog {server.log}", flush=True)
        while any(not server.has_ended for server in servers):
            time.sleep(_POLL_S)
            for server in servers:
                if server.has_ended and server.registration is not None:
                    _withdraw(server)
                    print(f"{server.url}\tended, exit code {server.process.returncode}", flush=True)


@contextmanager
def running_servers(options: ServeOptions) -> Iterator[list[RunningServer]]:
    """Servers that answer and are announced; they are ended at the end of the block.

    Raises:
        UserError: bad options, or a server did not come up.
    """
    _check(options)
    options.registry.mkdir(parents=True, exist_ok=True)
    servers: list[RunningServer] = []
    try:
        for number in range(options.servers):
            servers.append(_start(options, number))
        deadline = time.monotonic() + options.deadline_s
        for server in servers:
            _wait_until_up(server, deadline)
            server.registration = register(options.registry, server.url, pid=server.process.pid)
        yield servers
    finally:
        _stop(servers)


def server_command(options: ServeOptions, number: int, port: int) -> list[str]:
    """The command line of the server with this number, without its environment."""
    on_cpu = ["--device", "cpu", "--sleep-on-idle"]
    return [
        *(str(options.python), "-m", "sglang.launch_server"),
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


def server_environment(options: ServeOptions, number: int) -> dict[str, str]:
    """What the server with this number finds in its environment, besides this process's own."""
    offline = {"HF_HUB_OFFLINE": "1"}
    if options.num_gpus > 0:
        gpus = range(number * options.tensor, (number + 1) * options.tensor)
        return {**offline, "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
    return {
        **offline,
        "SGLANG_USE_CPU_ENGINE": "1",
        "PYTHONPATH": str(_CPU_STAND_INS),
        "OMP_NUM_THREADS": "1",  # Servers side by side must not fight for cores.
    }


def _check(options: ServeOptions) -> None:
    read_hf_config(options.model)
    if not options.python.exists():
        raise UserError(
            f"--python {options.python}: no such file, expected the Python of an environment with "
            "SGLang; `make setup-sglang` makes .venv-sglang"
        )
    if options.num_gpus == 0 and options.tensor > 1:
        raise UserError(f"--tensor {options.tensor}: expected 1 on a CPU")
    if options.num_gpus > 0 and options.servers * options.tensor > options.num_gpus:
        raise UserError(
            f"--servers {options.servers} x --tensor {options.tensor}: expected at most the "
            f"{options.num_gpus} GPUs of this machine"
        )


def _start(options: ServeOptions, number: int) -> RunningServer:
    port = options.port + number if options.port else _free_port(options.host)
    url = f"http://{options.host}:{port}"
    log = options.registry.resolve() / f"{options.host}_{port}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            server_command(options, number, port),
            env=os.environ | server_environment(options, number),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # An interrupt of the terminal is this process's to pass on.
        )
    return RunningServer(process, url, log)


def _free_port(host: str) -> int:
    with socket.socket() as listener:
        listener.bind((host, 0))
        return listener.getsockname()[1]


def _wait_until_up(server: RunningServer, deadline: float) -> None:
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            response = httpx.get(f"{server.url}/health_generate", timeout=5.0, trust_env=False)
            # Another process may answer on a port that was taken, and this one has ended.
            if response.is_success and not server.has_ended:
                return
        if server.has_ended:
            raise UserError(
                f"server {server.url} ended with exit code {server.process.returncode} before it "
                f"was up; its log is {server.log}"
            )
        time.sleep(_POLL_S)
    raise UserError(f"server {server.url} did not come up in time; its log is {server.log}")


def _stop(servers: Sequence[RunningServer]) -> None:
    """End the servers' processes, with force where they do not end by themselves."""
    for server in servers:
        _withdraw(server)
        server.process.terminate()
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    for server in servers:
        try:
            server.process.wait(timeout=max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()


def _withdraw(server: RunningServer) -> None:
    if server.registration is not None:
        server.registration.unlink(missing_ok=True)
        server.registration = None


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Have SIGTERM end the block the way Ctrl-C does."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
