"""`megatron-stare serve`: SGLang servers on this machine, started, announced, and ended by pid.

Servers and router run in environments of their own (`make setup-sglang`); nothing of SGLang is
imported here. They stay up until this process is told to end (SIGINT, SIGTERM, SIGUSR1, which is
what Slurm's srun passes on, or SIGHUP, when its terminal closes), whatever trainers do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from megatron_stare.engines.sglang.commands import (
    ServeOptions,
    check_options,
    router_command,
    server_command,
    server_environment,
)
from megatron_stare.engines.sglang.ports import free_ports
from megatron_stare.engines.sglang.registry import Kind, register
from megatron_stare.errors import UserError
from megatron_stare.launch.environment import environment_with
from megatron_stare.system.output import make_folder, writing
from megatron_stare.system.stop_signals import SIGNALS

_POLL_S = 0.5
_STOP_TIMEOUT_S = 10.0
_ENDING = (*SIGNALS, signal.SIGHUP)
_HEALTH_PATHS: dict[Kind, str] = {"server": "/health_generate", "router": "/health"}


@dataclass(slots=True)
class RunningServer:
    """A server's or router's process, and where it listens.

    registration  exists while it is announced
    """

    kind: Kind
    process: subprocess.Popen[bytes]
    url: str
    log: Path
    registration: Path | None = None

    @property
    def has_ended(self) -> bool:
        """Whether its process is gone."""
        return self.process.poll() is not None


def serve(options: ServeOptions) -> None:
    """Run servers, and a router if there is to be one, until told to end or all servers are gone.

    Raises:
        UserError: bad options, or a server did not come up.
    """
    told_to_end = contextlib.suppress(KeyboardInterrupt)
    with told_to_end, termination_as_interrupt(), running_servers(options) as servers:
        for server in servers:
            print(
                f"{server.url}\t{server.kind}\tpid {server.process.pid}\tlog {server.log}",
                flush=True,
            )
        while any(not server.has_ended for server in servers if server.kind == "server"):
            time.sleep(_POLL_S)
            for server in servers:
                if server.has_ended and server.registration is not None:
                    _withdraw(server)
                    print(f"{server.url}\tended, exit code {server.process.returncode}", flush=True)


@contextmanager
def running_servers(options: ServeOptions) -> Iterator[list[RunningServer]]:
    """Servers, and the router, that answer and are announced; ended at the end of the block.

    Raises:
        UserError: bad options, or a server did not come up.
    """
    check_options(options)
    make_folder(options.registry, "--registry")
    servers: list[RunningServer] = []
    with tempfile.TemporaryDirectory(prefix="megatron-stare-serve-") as folder, _ended(servers):
        *ports, router_port, metrics_port = _ports(options)
        for number, port in enumerate(ports):
            command = server_command(options, number, port)
            environment = server_environment(options, number, Path(folder))
            servers.append(_start(options, "server", port, command, environment))
        if options.router_python is not None:
            command = router_command(options, router_port, metrics_port)
            servers.append(_start(options, "router", router_port, command, {}))
        deadline = time.monotonic() + options.deadline_s
        for server in servers:
            _wait_until_up(server, deadline)
            with writing(options.registry, "--registry"):
                server.registration = register(
                    options.registry, server.url, pid=server.process.pid, kind=server.kind
                )
        yield servers


@contextmanager
def _ended(servers: Sequence[RunningServer]) -> Iterator[None]:
    """At its end all of the servers are, however often this process is told to end meanwhile."""
    try:
        yield
    finally:
        with _on_signals(signal.SIG_IGN, _ENDING):
            _stop(servers)


def _start(
    options: ServeOptions,
    kind: Kind,
    port: int,
    command: Sequence[str],
    environment: Mapping[str, str],
) -> RunningServer:
    url = f"http://{options.host}:{port}"
    log = options.registry.resolve() / f"{options.host}_{port}.log"
    with writing(log, "--registry"):
        file = log.open("wb")
    with file:
        process = subprocess.Popen(
            command,
            env=environment_with(environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # An interrupt of the terminal is this process's to pass on.
        )
    return RunningServer(kind, process, url, log)


def _ports(options: ServeOptions) -> list[int]:
    """Of the servers, the router, and the router's metrics."""
    count = options.servers + 2
    if options.port == 0:
        return free_ports(options.host, count)
    return [*range(options.port, options.port + count - 1), *free_ports(options.host, 1)]


def _wait_until_up(server: RunningServer, deadline: float) -> None:
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            response = httpx.get(
                f"{server.url}{_HEALTH_PATHS[server.kind]}", timeout=5.0, trust_env=False
            )
            # Another process may answer on a port that was taken, and this one has ended.
            if response.is_success and not server.has_ended:
                return
        if server.has_ended:
            raise UserError(
                f"{server.kind} {server.url} ended with exit code {server.process.returncode} "
                f"before it was up; its log is {server.log}"
            )
        time.sleep(_POLL_S)
    raise UserError(f"{server.kind} {server.url} did not come up in time; its log is {server.log}")


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
            os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()


def _withdraw(server: RunningServer) -> None:
    if server.registration is not None:
        with contextlib.suppress(OSError):  # What cannot be withdrawn is found not to answer.
            server.registration.unlink(missing_ok=True)
        server.registration = None


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Have SIGTERM, SIGUSR1 and SIGHUP end the block as Ctrl-C does; not those ignored."""
    numbers = [number for number in _ENDING if signal.getsignal(number) != signal.SIG_IGN]
    with _on_signals(signal.default_int_handler, numbers):
        yield


@contextmanager
def _on_signals(handler: Any, numbers: Sequence[int]) -> Iterator[None]:
    previous = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, before in zip(numbers, previous, strict=True):
            signal.signal(number, before)
