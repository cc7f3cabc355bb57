"""Time and traffic of the global selection, next to gathering every value and `torch.topk`.

    python tools/bench_selection.py [--ranks 1 2 4 8] [--tokens 1e6 3e6 1e7] [--repeats 5]

Gloo ranks on this machine. Both select the same 10% of the tokens, ties by token id (checked), and
run in turns. Token ids are positions in the gathered order, so the baseline needs no ids: this is
its best case. Prints a Markdown table:
    ms     until the slowest rank is done, median over the repeats
    bytes  sent by each rank in ring algorithms: of a result of S bytes over p ranks, an all-gather
           sends (p-1)/p S, an all-reduce twice that
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from megatron_stare.ops.selection import global_top_k

MAX_GATHERED = 40_000_000  # the baseline takes about 24 bytes of each on every rank
TOP_SHARE = 0.1


def exponential(n: int, generator: torch.Generator) -> Tensor:
    """Surprisals of a policy whose entropy is 1 nat; all but distinct."""
    return torch.empty(n).exponential_(generator=generator)


def saturated(n: int, generator: torch.Generator) -> Tensor:
    """60% of the tokens have a surprisal of exactly 0."""
    certain = torch.rand(n, generator=generator) < 0.6
    return exponential(n, generator).masked_fill_(certain, 0.0)


def collapsed(n: int, generator: torch.Generator) -> Tensor:
    """95% are 0, so the selection ends among ties."""
    certain = torch.rand(n, generator=generator) < 0.95
    return exponential(n, generator).masked_fill_(certain, 0.0)


def all_equal(n: int, generator: torch.Generator) -> Tensor:
    """Every token ties."""
    return torch.zeros(n)


DISTRIBUTIONS = (exponential, saturated, collapsed, all_equal)


def gathered_top_k(values: Tensor, k: int, token_ids: Tensor) -> Tensor:
    """The baseline: every rank gathers all values and ranks them."""
    gathered = values.new_empty(dist.get_world_size() * len(values))
    dist.all_gather_single(gathered, values)
    top = gathered.topk(k, sorted=False).values
    threshold = top.min()
    num_ties_taken = int((top == threshold).sum())
    last_tie = (gathered == threshold).nonzero()[num_ties_taken - 1]
    return (values > threshold) | ((values == threshold) & (token_ids <= last_tie))


def selected_top_k(values: Tensor, k: int, token_ids: Tensor) -> Tensor:
    return global_top_k(values, k, token_ids=token_ids, group=dist.group.WORLD)


@contextmanager
def bytes_sent() -> Iterator[list[float]]:
    """What this rank sends inside the block, collective by collective, in ring algorithms."""
    sent: list[float] = []

    def counting(collective: Callable, factor: int) -> Callable:
        def counted(result: Tensor, *args, **kwargs):
            size = dist.get_world_size()
            sent.append(factor * result.nbytes * (size - 1) / size)
            return collective(result, *args, **kwargs)

        return counted

    with (
        mock.patch.object(dist, "all_reduce", counting(dist.all_reduce, 2)),
        mock.patch.object(dist, "all_gather_single", counting(dist.all_gather_single, 1)),
    ):
        yield sent


def timed(select: Callable, *args) -> float:
    """Milliseconds until the slowest rank is done."""
    dist.barrier()
    start = time.perf_counter()
    select(*args)
    spent = torch.tensor(time.perf_counter() - start)
    dist.all_reduce(spent, dist.ReduceOp.MAX)
    return 1e3 * float(spent)


def compare(values: Tensor, repeats: int) -> str:
    """One line of the table, the columns after the distribution."""
    rank, size, n = dist.get_rank(), dist.get_world_size(), len(values)
    call = (values, int(TOP_SHARE * n * size), torch.arange(rank * n, (rank + 1) * n))
    with bytes_sent() as ours_sent:
        ours = selected_top_k(*call)
    with bytes_sent() as theirs_sent:
        theirs = gathered_top_k(*call)
    assert torch.equal(ours, theirs)
    rounds = [(timed(selected_top_k, *call), timed(gathered_top_k, *call)) for _ in range(repeats)]
    our_ms, their_ms = (median(times) for times in zip(*rounds, strict=True))
    our_bytes, their_bytes = sum(ours_sent), sum(theirs_sent)
    bytes_ratio = f"{our_bytes / their_bytes:.2%}" if their_bytes else "-"
    return (
        f"{len(ours_sent)} | {our_bytes / 1024:,.0f} | {their_bytes / 1024:,.0f} | {bytes_ratio} | "
        f"{our_ms:,.0f} | {their_ms:,.0f} | {their_ms / our_ms:.1f}x"
    )


def run_rank(rank: int, size: int, store: str, tokens: list[int], repeats: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    for n in tokens:
        for distribution in DISTRIBUTIONS:
            values = distribution(n, torch.Generator().manual_seed(rank))
            columns = compare(values, repeats)
            if rank == 0:
                name = distribution.__name__.replace("_", " ")
                print(f"| {size} | {n:.0e} | {name} | {columns} |", flush=True)
    dist.destroy_process_group()


def gatherable(tokens: list[int], size: int) -> list[int]:
    """Tokens a rank that the baseline has memory for; says which it lowers."""
    most = MAX_GATHERED // size
    for n in tokens:
        if n > most:
            print(
                f"{size} ranks: {most:,} tokens a rank instead of {n:,}, so that each gathers no "
                f"more than {MAX_GATHERED:,}"
            )
    return sorted({min(n, most) for n in tokens})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--tokens", type=float, nargs="+", default=[1e6, 3e6, 1e7])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    tokens = {size: gatherable([int(n) for n in args.tokens], size) for size in args.ranks}
    print(
        "| ranks | tokens a rank | surprisals | collectives | KiB | KiB, gathered | ratio | ms ",
        end="",
    )
    print("| ms, gathered | speed-up |\n|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    for size in args.ranks:
        with tempfile.TemporaryDirectory() as folder:
            store = str(Path(folder) / "store")
            spawn(run_rank, args=(size, store, tokens[size], args.repeats), nprocs=size)


if __name__ == "__main__":
    main()
