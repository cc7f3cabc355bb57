"""Real gloo worlds for tests: `run_world(n, function, *args)` runs a function in n processes.

Processes fork from a server that has imported torch once, so a world of 8 starts in about a second.
"""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["torch", "torch.distributed", "transformers", "megatron_stare.policy"]
)


def run_world(size: int, function: Callable[..., Any], *args: Any, timeout_s: float = 240) -> list:
    """Call `function(rank, *args)` on every rank of a gloo world; return the results by rank.

    `function` must be importable (top level of a test module); results must pickle. The first
    exception of any rank fails the caller with that rank's traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        workers = []
        for rank in range(size):
            ours, theirs = _CONTEXT.Pipe()
            process = _CONTEXT.Process(
                target=_rank_main, args=(rank, size, store, theirs, function, args), daemon=True
            )
            process.start()
            theirs.close()
            workers.append((process, ours))
        try:
            return [_result(rank, pipe, timeout_s) for rank, (_, pipe) in enumerate(workers)]
        finally:
            for process, _ in workers:
                process.join(timeout=5)
                if process.is_alive():
                    process.kill()


def _result(rank: int, pipe: Connection, timeout_s: float) -> Any:
    if not pipe.poll(timeout_s):
        raise TimeoutError(f"rank {rank} gave no result within {timeout_s} s")
    try:
        failure, value = pickle.loads(pipe.recv_bytes())
    except EOFError:
        raise RuntimeError(f"rank {rank} died without a result") from None
    if failure:
        raise AssertionError(f"rank {rank} failed:\n{failure}")
    return value


def _rank_main(rank: int, size: int, store: str, pipe: Connection, function, args) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(store, size),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=120),
    )
    try:
        _send(pipe, None, function(rank, *args))
    except BaseException:
        _send(pipe, traceback.format_exc(), None)
    finally:
        # Leave together: a rank that exits early closes connections others still use.
        pipe.close()
        dist.destroy_process_group()


def _send(pipe: Connection, failure: str | None, value: Any) -> None:
    # By value: a tensor sent through shared memory is lost when this process ends first.
    pipe.send_bytes(pickle.dumps((failure, value)))
