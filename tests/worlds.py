"""Real gloo worlds for tests: `run_world(n, function, *args)` runs a function in n processes.

Processes fork from a server that has imported torch and the trainer once, so a world of 8 starts in
about a second. A world always ends: the first failure, a dead rank or the deadline ends all of it.
"""

from __future__ import annotations

import io
import math
import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    [
        "torch.distributed",
        "transformers.models.auto.modeling_auto",
        "megatron_stare.train",
        "megatron_stare.cli",
        "pytest",
    ]
)
_COLLECTIVES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_single",
    "all_reduce",
    "all_to_all",
    "all_to_all_single",
    "broadcast",
    "gather",
    "isend",
    "recv",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_single",
    "reduce_scatter_tensor",
    "scatter",
    "send",
)
_GRACE_S = 0.5
"""After a failure is seen: time for one that came before it, on another rank, to arrive."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a rank reports: its result, or the traceback of what it raised."""

    value: Any = None
    failure: str | None = None
    at_s: float = -math.inf  # a rank that died tells no time: it broke the others, so it is first


def run_world(size: int, function: Callable[..., Any], *args: Any, timeout_s: float = 240) -> list:
    """Call `function(rank, *args)` on every rank of a gloo world; return the results by rank.

    `function` must be importable (top level of a test module); results must pickle.

    Raises:
        AssertionError: a rank failed or died; the message has the traceback of the first that did.
        TimeoutError: ranks gave no result in time; the message names them.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        processes, pipes = [], []
        try:
            for rank in range(size):
                ours, theirs = FORKSERVER.Pipe(duplex=False)
                process = FORKSERVER.Process(
                    target=_rank_main, args=(rank, size, store, theirs, function, args), daemon=True
                )
                process.start()
                theirs.close()
                processes.append(process)
                pipes.append(ours)
            results = _collect(pipes, timeout_s)
            for process in processes:
                process.join(timeout=5)
            return results
        finally:
            for process in processes:
                process.kill()
                process.join()


@contextmanager
def recorded_collectives() -> Iterator[list[tuple[str, int]]]:
    """Collectives of this rank inside the block: (function, bytes of its output) each."""
    calls: list[tuple[str, int]] = []

    def recorder(name: str) -> Callable[..., Any]:
        original = getattr(dist, name)

        def recorded(output, *args, **kwargs):
            tensors = output if isinstance(output, list) else [output]
            calls.append((name, sum(tensor.nbytes for tensor in tensors)))
            return original(output, *args, **kwargs)

        return recorded

    with ExitStack() as stack:
        for name in _COLLECTIVES:
            stack.enter_context(mock.patch.object(dist, name, recorder(name)))
        yield calls


def _collect(pipes: Sequence[Connection], timeout_s: float) -> list:
    deadline = time.monotonic() + timeout_s
    rank_of = {pipe: rank for rank, pipe in enumerate(pipes)}
    outcomes: dict[int, _Outcome] = {}
    while rank_of and (ready := wait(list(rank_of), deadline - time.monotonic())):
        for pipe in ready:
            outcome = _receive(pipe)
            outcomes[rank_of.pop(pipe)] = outcome
            if outcome.failure:
                deadline = min(deadline, time.monotonic() + _GRACE_S)
    silent = sorted(rank_of.values())
    failed = [rank for rank, outcome in outcomes.items() if outcome.failure]
    if failed:
        first = min(failed, key=lambda rank: outcomes[rank].at_s)
        raise AssertionError(
            f"rank {first} failed first (failed after it: {sorted({*failed} - {first})}, "
            f"still running: {silent}):\n{outcomes[first].failure}"
        )
    if silent:
        raise TimeoutError(f"ranks {silent} gave no result within {timeout_s} s")
    return [outcomes[rank].value for rank in range(len(pipes))]


def _send(pipe: Connection, outcome: _Outcome) -> None:
    # By value: `pipe.send` shares a tensor's memory, which is lost when this process ends first.
    # Not by pickle: once imported, Megatron-Core puts its own name into pickled tensors, and the
    # receiver would have to import it too.
    buffer = io.BytesIO()
    torch.save(outcome, buffer)
    pipe.send_bytes(buffer.getvalue())


def _receive(pipe: Connection) -> _Outcome:
    try:
        return torch.load(io.BytesIO(pipe.recv_bytes()), weights_only=False)
    except EOFError:
        return _Outcome(failure="it died without a result")


def _rank_main(rank: int, size: int, store: str, pipe: Connection, function, args) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            store=dist.FileStore(store, size),
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=120),
        )
        _send(pipe, _Outcome(value=function(rank, *args)))
    except BaseException:
        _send(pipe, _Outcome(failure=traceback.format_exc(), at_s=time.monotonic()))
    finally:
        # Leave together: a rank that exits early closes connections others still use.
        pipe.close()
        dist.destroy_process_group()
