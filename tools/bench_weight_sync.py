"""Seconds to bring weights to SGLang servers, beside the plain ways to move the same bytes.

    python tools/bench_weight_sync.py --servers 2 --rounds 5

A made Qwen3 goes to real servers on this machine by each transport. Beside each stands what its
way costs without servers: the same bytes to as many processes at once,

    tensor        copied into memory that they share, then out of it by each (memcpy)
    distributed   received over a TCP connection to each (loopback)
    disk          written to a file, which each reads
"""

from __future__ import annotations

import argparse
import mmap
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import Thread

import torch
import transformers
from torch import Tensor

from megatron_stare.config.rollout import ServersConfig
from megatron_stare.data.tokenizer import load_tokenizer
from megatron_stare.engines.sglang.event_loop import EventLoop
from megatron_stare.engines.sglang.pool import ServerPool
from megatron_stare.engines.sglang.serve import (
    ServeOptions,
    running_servers,
    termination_as_interrupt,
)
from megatron_stare.engines.sglang.sync.weight_sync import WeightSync

CHUNK = 4 << 20
FORK = get_context("fork")


@dataclass(frozen=True, slots=True)
class Timing:
    """Of a sync, in seconds: the whole call, and from pause to resume."""

    loop_s: float
    paused_s: float


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    told_to_end = termination_as_interrupt()  # Servers end with this process.
    with told_to_end, tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        model, tensors = make_model(folder / "model", options)
        num_bytes = sum(tensor.nbytes for tensor in tensors.values())
        print(f"{num_bytes / 1e6:.0f} MB of {options.dtype} to {options.servers} servers")
        print("transport     paused s   loop s   GB/s   plain way s   loop / plain")
        with running_servers(serve_options(model, folder, options)) as servers:
            urls = tuple(server.url for server in servers)
            for transport in options.transports:
                plain_s = time_plain_way(transport, num_bytes, folder, options)
                with open_sync(urls, transport, model, folder, options) as update:
                    update(tensors, 0)  # hashes everything, connects and allocates
                    timings = [update(tensors, i) for i in range(1, options.rounds + 1)]
                plain_s += time_plain_way(transport, num_bytes, folder, options)
                print(row(transport, timings, plain_s, num_bytes * options.servers))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Weights to servers, timed.")
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bucket-mib", type=float, default=ServersConfig().bucket_mib)
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--transports", nargs="+", default=list(PLAIN_WAYS), choices=PLAIN_WAYS)
    parser.add_argument("--python", type=Path, default=Path(".venv-sglang/bin/python"))
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to be measured")
    return parser.parse_args()


def make_model(folder: Path, options: argparse.Namespace) -> tuple[Path, dict[str, Tensor]]:
    """A Qwen3 of hidden size 768 with random weights, and its tensors."""
    config = transformers.Qwen3Config(
        vocab_size=8192,
        hidden_size=768,
        intermediate_size=2304,
        num_hidden_layers=options.layers,
        num_attention_heads=12,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        architectures=["Qwen3ForCausalLM"],
    )
    network = transformers.Qwen3ForCausalLM(config).to(getattr(torch, options.dtype))
    network.save_pretrained(folder)
    return folder, {name: tensor.detach() for name, tensor in network.named_parameters()}


def serve_options(model: Path, folder: Path, options: argparse.Namespace) -> ServeOptions:
    return ServeOptions(
        model=model,
        python=options.python.absolute(),
        servers=options.servers,
        host="127.0.0.1",
        port=0,
        registry=folder / "registry",
        dtype=options.dtype,
        tensor=1,
        num_gpus=0,
        deadline_s=300.0,
        extra=("--max-total-tokens", "2048"),
    )


@contextmanager
def open_sync(
    urls: tuple[str, ...], transport: str, model: Path, folder: Path, options: argparse.Namespace
) -> Iterator[Callable[[dict[str, Tensor], int], Timing]]:
    """Syncs by a transport, timed."""
    config = ServersConfig.model_validate(
        {"urls": urls, "transport": transport, "bucket_mib": options.bucket_mib}
    )
    with closing(EventLoop()) as loop:
        pool = ServerPool(
            config,
            model_type="qwen3",
            tokenizer=load_tokenizer(model),
            log_dir=folder,
            report=print,
        )
        loop.run(pool.connect())
        sync = WeightSync(config, pool, model, weights_dir=folder / "sync", run=loop.run)

        def update(tensors: dict[str, Tensor], version: int) -> Timing:
            start = time.perf_counter()
            paused_s = sync.update(tensors.items(), version)
            return Timing(time.perf_counter() - start, paused_s)

        yield update
        sync.close()
        loop.run(pool.close())


def time_plain_way(
    transport: str, num_bytes: int, folder: Path, options: argparse.Namespace
) -> list[float]:
    """Half of its rounds: they surround the syncs, since between these they would disturb them."""
    rounds = range(-(-options.rounds // 2))
    return [PLAIN_WAYS[transport](num_bytes, options.servers, folder) for _ in rounds]


def row(transport: str, timings: list[Timing], plain_s: list[float], num_bytes: int) -> str:
    loop_s = statistics.median(timing.loop_s for timing in timings)
    paused_s = statistics.median(timing.paused_s for timing in timings)
    plain = statistics.median(plain_s)
    return (
        f"{transport:12} {paused_s:9.2f} {loop_s:8.2f} {num_bytes / loop_s / 1e9:6.2f}"
        f" {plain:13.2f} {plain / loop_s:13.0%}"
    )


def memcpy_s(num_bytes: int, num_processes: int, folder: Path) -> float:
    """Bytes are copied into memory that as many processes share; each copies them out of it."""
    data = made(num_bytes)
    with mmap.mmap(-1, num_bytes) as memory:
        memory[:] = data  # Touched once, like buffers that are kept from sync to sync.
        start = time.perf_counter()
        memory[:] = data
        copied_s = time.perf_counter() - start
        return copied_s + run_at_once(num_processes, copy, memory)


def copy(source: mmap.mmap, ready: Callable[[], None]) -> None:
    target = memoryview(bytearray(len(source)))
    with memoryview(source) as shared:
        ready()
        target[:] = shared


def loopback_s(num_bytes: int, num_processes: int, folder: Path) -> float:
    """As many processes receive, each from a thread of a process that sends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = FORK.Process(target=send_to_all, args=(listener, num_bytes))
        sender.start()
        try:
            return run_at_once(num_processes, receive, (listener.getsockname(), num_bytes))
        finally:
            sender.kill()
            sender.join()


def send_to_all(listener: socket.socket, num_bytes: int) -> None:
    data = made(num_bytes)
    while True:
        connection, _ = listener.accept()
        Thread(target=send, args=(connection, data), daemon=True).start()


def send(connection: socket.socket, data: memoryview) -> None:
    connection.recv(1)
    connection.sendall(data)


def receive(task: tuple[tuple[str, int], int], ready: Callable[[], None]) -> None:
    address, num_bytes = task
    target = memoryview(bytearray(num_bytes))
    with socket.create_connection(address) as connection:
        ready()
        connection.send(b"!")
        received = 0
        while received < num_bytes:
            received += connection.recv_into(target[received : received + CHUNK])


def disk_s(num_bytes: int, num_processes: int, folder: Path) -> float:
    """A file is written and flushed; as many processes read it."""
    path, data = folder / "plain", made(num_bytes)
    start = time.perf_counter()
    with path.open("wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    written_s = time.perf_counter() - start
    try:
        return written_s + run_at_once(num_processes, read, str(path))
    finally:
        path.unlink()


def read(path: str, ready: Callable[[], None]) -> None:
    target = bytearray(os.path.getsize(path))
    ready()
    with open(path, "rb", buffering=0) as file:
        file.readinto(target)


def made(num_bytes: int) -> memoryview:
    """Bytes that have memory of their own; zeros that nobody wrote share a page, in the cache."""
    return memoryview(b"\1" * num_bytes)


def run_at_once(num_processes: int, work: Callable[..., None], task: object) -> float:
    """Seconds from when all processes are ready until all have done their work."""
    barrier = FORK.Barrier(num_processes + 1)
    workers = [
        FORK.Process(target=work_when_ready, args=(work, task, barrier))
        for _ in range(num_processes)
    ]
    for worker in workers:
        worker.start()
    barrier.wait()
    start = time.perf_counter()
    barrier.wait()
    seconds = time.perf_counter() - start
    for worker in workers:
        worker.join()
    return seconds


def work_when_ready(work: Callable[..., None], task: object, barrier: Barrier) -> None:
    work(task, barrier.wait)
    barrier.wait()


PLAIN_WAYS: dict[str, Callable[[int, int, Path], float]] = {
    "tensor": memcpy_s,
    "distributed": loopback_s,
    "disk": disk_s,
}

if __name__ == "__main__":
    main()
