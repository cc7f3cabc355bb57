"""Time of a statistic with the same bits in every layout, next to a plain all-reduce of sums.

    python tools/bench_batch_stats.py [--ranks 1 2] [--samples 512] [--tokens 8192] [--repeats 9]

Gloo ranks on this machine, one thread each, samples of uniformly random lengths from half of
`--tokens` up to it, 95% of the tokens counted. In turns:
    plain      each rank adds its counted tokens in float64, the totals are all-reduced: the same
               number but for its last bits, which depend on the layout
    mean       `BatchStats.mean`
    plain std  the same of their squared distances from the plain mean
    std        `BatchStats.std`, which goes over the tokens twice, too
    new        `BatchStats(...)`, once a step and set of keys
Prints a Markdown table: ms until the slowest rank is done, median over the repeats; and what each
takes of the plain mean, a `std` also of the plain one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from megatron_stare.algorithms.batch_stats import BatchStats
from megatron_stare.types import TokenBatch


def plain_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The token mean of today's trainers."""
    total = torch.stack([values.masked_fill(~mask, 0.0).double().sum(), mask.sum().double()])
    dist.all_reduce(total)
    return total[0] / total[1]


def plain_std(values: Tensor, mask: Tensor) -> Tensor:
    """The token standard deviation of today's trainers: a mean of squares, after a mean."""
    return plain_mean((values - plain_mean(values, mask)).square(), mask).sqrt()


def batch_of(samples: int, tokens: int) -> TokenBatch:
    """The whole batch, the same on every rank; it has no prompts."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(tokens // 2, tokens + 1, (samples,), generator=generator)
    mask = torch.rand(int(lengths.sum()), generator=generator) < 0.95
    return TokenBatch(torch.zeros(0), torch.zeros_like(lengths), lengths, mask)


def seconds(work: Callable[[], object]) -> float:
    """Until the slowest rank is done."""
    dist.barrier()
    start = time.perf_counter()
    work()
    dist.barrier()
    return time.perf_counter() - start


def measure(rank: int, ranks: int, store: str, samples: int, tokens: int, repeats: int) -> None:
    """Prints a row on rank 0."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    batch = batch_of(samples, tokens)
    index = torch.arange(len(batch.loss_mask))[batch.sample_ids % ranks == rank]
    values = torch.randn(len(index), generator=torch.Generator().manual_seed(rank))

    def new() -> BatchStats:
        return BatchStats(batch, index, group=dist.group.WORLD)

    stats = new()
    works = {
        "plain": lambda: plain_mean(values, stats.mask),
        "mean": lambda: stats.mean(values),
        "plain std": lambda: plain_std(values, stats.mask),
        "std": lambda: stats.std(values),
        "new": new,
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            times[name].append(seconds(work))
    ms = {name: 1e3 * median(each[1:]) for name, each in times.items()}
    if rank == 0:
        cells = [f"{each:.2f} ({each / ms['plain']:.2f})" for each in ms.values()]
        cells.append(f"{ms['std'] / ms['plain std']:.2f}")
        print(f"| {ranks} | {len(batch.loss_mask):,} | {' | '.join(cells)} |", flush=True)
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    print("| ranks | tokens | plain | mean | plain std | std | new | std of plain std |")
    print("|---|---|---|---|---|---|---|---|")
    for ranks in args.ranks:
        with tempfile.TemporaryDirectory() as folder:
            store = str(Path(folder) / "store")
            spawn(measure, (ranks, store, args.samples, args.tokens, args.repeats), nprocs=ranks)


if __name__ == "__main__":
    main()
