"""Time, memory, traffic and error of the head and of its peers, side by side in one run.

    python tools/bench_logprob_entropy.py --tokens 1024 --vocab 32768 --hidden 1024
    python tools/bench_logprob_entropy.py --tp 2 --dtype bfloat16
    torchrun --nproc-per-node 8 tools/bench_logprob_entropy.py --device cuda --dtype bfloat16

Every peer gets the same hidden states, weights, targets and gradient; repeats are interleaved, and
times are medians: of processor time on CPU, so that a shared machine matters less. Peak bytes are
above inputs and gradients, saved bytes those kept between forward and backward beside the inputs,
both a rank's. Errors are the largest over tokens (log-prob, entropy, nats) and relative in norm
(gradients), against float64 of the same inputs.

"bare matmuls" are the four of the op's own tiles and nothing else. On a GPU its time is held to
theirs; on a CPU to that of correct heads that keep their logits: for a forward, for a forward and a
backward, and for the one and then the other, prepass and update of a STARE step. "this op, after a
prepass" has the scores of the first in the second; "this op, no logits kept" has no room for any.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import statistics
import tempfile
import time
from dataclasses import dataclass

from logprob_entropy_peers import AFTER_A_PREPASS, KEEPING_NONE, PEERS, Peer

# isort: split
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from megatron_stare.ops.head_tiles import CHUNK_BYTES, KEPT_BYTES


@dataclass(frozen=True)
class Case:
    """The same inputs for every peer, and the float64 answer, on this rank."""

    hidden: Tensor  # [n, h]
    weight: Tensor  # [V / tp, h]
    targets: Tensor  # [n]
    d_logprob: Tensor  # [n]
    group: dist.ProcessGroup
    expected: tuple[Tensor, Tensor, Tensor, Tensor]  # log-prob, entropy, d_hidden, d_weight

    @classmethod
    def make(cls, options: argparse.Namespace, device: torch.device) -> Case:
        """Inputs from one seed, so that every rank has the same."""
        group = dist.group.WORLD
        assert group is not None
        generator = torch.Generator().manual_seed(0)
        n, h, vocab = options.tokens, options.hidden, options.vocab
        # Logits of standard deviation 3: an entropy of several nats, far from uniform.
        hidden = torch.randn(n, h, generator=generator).mul_(3 * h**-0.5)
        weight = torch.randn(vocab, h, generator=generator)
        targets = torch.randint(vocab, (n,), generator=generator).to(device)
        d_logprob = torch.randn(n, generator=generator).to(device)
        dtype = getattr(torch, options.dtype)
        hidden, weight = hidden.to(device, dtype), weight.to(device, dtype)
        shard = slice(*(vocab // group.size() * (group.rank() + i) for i in (0, 1)))
        expected = _float64(hidden, weight, targets, d_logprob, shard)
        return cls(
            hidden.requires_grad_(),
            weight[shard].clone().requires_grad_(),
            targets,
            d_logprob,
            group,
            expected,
        )

    def clear(self) -> None:
        """Forget the gradients of the peer before."""
        self.hidden.grad = self.weight.grad = None


def _float64(
    hidden: Tensor, weight: Tensor, targets: Tensor, d_logprob: Tensor, shard: slice
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """By blocks of tokens, so that a large case does not need all logits in float64."""
    wide = weight.double()
    parts, d_weight = [], torch.zeros_like(wide[shard])
    for rows in torch.arange(len(hidden), device=hidden.device).split(256):
        logprobs = (hidden[rows].double() @ wide.t()).log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        logprob = logprobs.gather(1, targets[rows, None])[:, 0]
        d_logits = logprobs.exp_().neg_().mul_(d_logprob[rows, None])
        d_logits.scatter_add_(1, targets[rows, None], d_logprob[rows, None].double())
        parts.append((logprob, entropy, d_logits @ wide))
        d_weight += d_logits[:, shard].t() @ hidden[rows].double()
    logprob, entropy, d_hidden = map(torch.cat, zip(*parts, strict=True))
    return logprob, entropy, d_hidden, d_weight


@dataclass
class Row:
    """What was measured of one peer on one rank."""

    name: str
    materialises_logits: bool
    forward_ms: float
    both_ms: float
    forward_bytes: int
    both_bytes: int
    saved_bytes: int
    forward_collectives: int
    both_collectives: int
    errors: tuple[float, float, float, float]  # log-prob, entropy, d_hidden, d_weight

    @property
    def peak(self) -> int:
        """Bytes, of a forward or with the backward."""
        return max(self.forward_bytes, self.both_bytes)

    @property
    def step_ms(self) -> float:
        """A prepass and an update."""
        return self.forward_ms + self.both_ms


def run_forward(peer: Peer, case: Case) -> tuple[Tensor, Tensor | None]:
    with torch.no_grad():
        return peer.call(case.hidden, case.weight, case.targets, case.group)


def run_both(peer: Peer, case: Case) -> tuple[Tensor, Tensor | None]:
    logprob, entropy = peer.call(case.hidden, case.weight, case.targets, case.group)
    logprob.backward(case.d_logprob.to(logprob.dtype))
    return logprob.detach(), entropy


def measure(peers: list[Peer], case: Case, repeats: int) -> list[Row]:
    """One warm-up, which is checked; the memory; then interleaved timings."""
    case.weight.main_grad = torch.zeros_like(case.weight, dtype=torch.float32)  # pyright: ignore[reportAttributeAccessIssue]
    facts = [_facts(peer, case) for peer in peers]
    times: dict[tuple[str, bool], list[float]] = {}
    for _ in range(repeats):
        for peer in peers:
            for backward, run in ((False, run_forward), (True, run_both)):
                case.clear()
                elapsed = _elapsed_ms(functools.partial(run, peer, case), case)
                times.setdefault((peer.name, backward), []).append(elapsed)
    medians = {key: statistics.median(values) for key, values in times.items()}
    return [
        Row(
            peer.name,
            peer.materialises_logits,
            forward_ms=medians[peer.name, False],
            both_ms=medians[peer.name, True],
            **fact,
        )
        for peer, fact in zip(peers, facts, strict=True)
    ]


def _facts(peer: Peer, case: Case) -> dict:
    case.clear()
    main_grad: Tensor = case.weight.main_grad  # pyright: ignore[reportAttributeAccessIssue]
    main_grad.zero_()
    run_forward(peer, case)
    logprob, entropy = run_both(peer, case)
    d_weight = main_grad if case.weight.grad is None else case.weight.grad
    errors = _errors(logprob, entropy, case.hidden.grad, d_weight, case)
    if peer.only_matmuls:
        errors = (math.nan,) * 4
    gradients = [t.grad for t in (case.hidden, case.weight) if t.grad is not None]
    outputs = sum(gradient.nbytes for gradient in gradients)
    case.clear()
    forward_bytes, _, forward_calls = _profiled(lambda: run_forward(peer, case), case)
    both_bytes, _, both_calls = _profiled(lambda: run_both(peer, case), case)
    case.clear()
    run_forward(peer, case)
    return {
        "errors": errors,
        "forward_bytes": forward_bytes,
        "both_bytes": both_bytes - outputs,
        "saved_bytes": _saved_bytes(peer, case),
        "forward_collectives": forward_calls,
        "both_collectives": both_calls,
    }


def _errors(
    logprob: Tensor,
    entropy: Tensor | None,
    d_hidden: Tensor | None,
    d_weight: Tensor,
    case: Case,
) -> tuple[float, float, float, float]:
    assert d_hidden is not None
    logprob = logprob.detach()
    entropy = None if entropy is None else entropy.detach()
    want_logprob, want_entropy, want_hidden, want_weight = case.expected
    return (
        float((logprob - want_logprob).abs().max()),
        float("nan") if entropy is None else float((entropy - want_entropy).abs().max()),
        float((d_hidden - want_hidden).norm() / want_hidden.norm()),
        float((d_weight - want_weight).norm() / want_weight.norm()),
    )


def _elapsed_ms(run, case: Case) -> float:
    dist.barrier()
    _synchronise(case)
    clock = time.perf_counter if case.hidden.is_cuda else time.process_time
    start = clock()
    run()
    _synchronise(case)
    return 1e3 * (clock() - start)


def _synchronise(case: Case) -> None:
    if case.hidden.is_cuda:
        torch.cuda.synchronize()


def _profiled(run, case: Case) -> tuple[int, int, int]:
    """Bytes above what was allocated before, at the peak and at the end, and collectives."""
    if case.hidden.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = profiler.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    calls = sum(event.name().startswith("c10d::") for event in events)
    if case.hidden.is_cuda:
        peak, held = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
        return peak - before, held - before, calls
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
            peak = max(peak, held)
    return peak, held, calls


def _saved_bytes(peer: Peer, case: Case) -> int:
    outputs: list[Tensor] = []

    def forward() -> None:
        called = peer.call(case.hidden, case.weight, case.targets, case.group)
        outputs.extend(output for output in called if output is not None)

    _, held, _ = _profiled(forward, case)
    return held - sum(output.nbytes for output in outputs)


def report(rows: list[Row], options: argparse.Namespace, tp_size: int) -> None:
    local_logits = options.tokens * options.vocab // tp_size
    device = options.device
    print(
        f"\n{options.tokens} tokens, vocabulary {options.vocab} over {tp_size} ranks, hidden "
        f"{options.hidden}, {options.dtype}, {device}; a chunk is {CHUNK_BYTES[device] >> 20} MiB, "
        f"1 byte a local logit {local_logits / 2**20:.1f} MiB\n"
    )
    print(
        "| | fwd ms | fwd+bwd ms | fwd peak, B/logit | fwd+bwd peak, B/logit | saved, B/logit "
        "| collectives fwd, fwd+bwd | err logp | err H | err dX | err dW |"
    )
    print("|---|" + "---:|" * 10)
    for row in rows:
        per_logit = [
            value / local_logits for value in (row.forward_bytes, row.both_bytes, row.saved_bytes)
        ]
        print(
            f"| {row.name} | {row.forward_ms:.0f} | {row.both_ms:.0f} | "
            + " | ".join(f"{value:.2f}" for value in per_logit)
            + f" | {row.forward_collectives}, {row.both_collectives} | "
            + " | ".join("n/a" if math.isnan(error) else f"{error:.1e}" for error in row.errors)
            + " |"
        )
    print_goals(rows, options, local_logits)


@dataclass(frozen=True)
class Goal:
    """A ratio that is to be at most `bound`; None where this run has no measurement of it."""

    name: str
    ratio: float | None
    bound: float

    def line(self) -> str:
        """A row of the table of goals."""
        if self.ratio is None:
            return f"| {self.name} | - | {self.bound} | not measured |"
        verdict = "pass" if self.ratio <= self.bound else "MISS"
        return f"| {self.name} | {self.ratio:.3g} | {self.bound} | {verdict} |"


def exactness_and_memory_goals(
    rows: list[Row], options: argparse.Namespace, local_logits: int
) -> list[Goal]:
    ours, keeping_none = rows[0], _named(rows, KEEPING_NONE)
    budget = 0.1 * local_logits + CHUNK_BYTES[options.device]
    with_kept = budget + KEPT_BYTES[options.device]
    memory = [
        Goal("peak bytes / (0.1 B a logit + a chunk + what may be kept)", ours.peak / with_kept, 1),
        Goal("keeping none: peak bytes / (0.1 B a logit + a chunk)", keeping_none.peak / budget, 1),
    ]
    if options.dtype == "float32":
        return [*memory, Goal("log-prob error / 1e-5", ours.errors[0] / 1e-5, 1.0)]
    rounded = max(row.errors[0] for row in rows if row.materialises_logits)
    return [*memory, Goal("log-prob error / that of 16-bit logits", ours.errors[0] / rounded, 0.1)]


def time_goals_on_cpu(rows: list[Row]) -> list[Goal]:
    """Next to each correct path with logits: it errs by at most 1e-4, as 16-bit logits do not."""
    ours, after = rows[0], _named(rows, AFTER_A_PREPASS)
    return [
        goal
        for row in rows[1:]
        if row.materialises_logits and row.errors[0] <= 1e-4
        for goal in (
            Goal(f"forward / {row.name}", ours.forward_ms / row.forward_ms, 1.1),
            Goal(f"forward+backward / {row.name}", ours.both_ms / row.both_ms, 1.05),
            Goal(f"prepass and update / {row.name}", after.step_ms / row.step_ms, 1.1),
        )
    ]


def _named(rows: list[Row], name: str) -> Row:
    return next(row for row in rows if row.name == name)


def time_goals_on_cuda(rows: list[Row]) -> list[Goal]:
    both_ms = {row.name: row.both_ms for row in rows}

    def goal(name: str, bound: float) -> Goal:
        ratio = rows[0].both_ms / both_ms[name] if name in both_ms else None
        return Goal(f"forward+backward / {name}", ratio, bound)

    return [goal("bare matmuls", 1.25), goal("verl kernel", 1.0)]


def print_goals(rows: list[Row], options: argparse.Namespace, local_logits: int) -> None:
    goals = exactness_and_memory_goals(rows, options, local_logits)
    goals += time_goals_on_cuda(rows) if options.device == "cuda" else time_goals_on_cpu(rows)
    print("\n| goal | ratio | at most | |\n|---|---:|---:|---|")
    for goal in goals:
        print(goal.line())


def bench(rank: int, options: argparse.Namespace, size: int, store: str | None) -> None:
    """One rank; its own figures are printed by rank 0, with the largest error of all."""
    if options.device == "cuda":
        torch.cuda.set_device(rank)
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    backend = "nccl" if options.device == "cuda" else "gloo"
    rendezvous = None if store is None else dist.FileStore(store, size)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group(backend, rank=rank, world_size=size, store=rendezvous)
    dtype = getattr(torch, options.dtype)
    skipped = {peer.name: peer.why_skipped(device, dtype, size) for peer in PEERS}
    if rank == 0:
        for name, reason in skipped.items():
            if reason:
                print(f"skipped: {name}: {reason}")
    case = Case.make(options, device)
    peers = [peer for peer in PEERS if skipped[peer.name] is None]
    rows = measure(peers, case, options.repeats)
    for row in rows:
        errors = torch.tensor(row.errors, device=device)
        dist.all_reduce(errors, dist.ReduceOp.MAX)
        row.errors = tuple(errors.tolist())
    if rank == 0:
        report(rows, options, size)
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=32768, help="divisible by the ranks")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tp", type=int, default=1, help="ranks to start; torchrun brings its own")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a rank")
    options = parser.parse_args()
    if "RANK" in os.environ:
        bench(int(os.environ["RANK"]), options, int(os.environ["WORLD_SIZE"]), None)
        return
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(bench, (options, options.tp, f"{folder}/store"), nprocs=options.tp)  # pyright: ignore[reportPrivateImportUsage]


if __name__ == "__main__":
    main()
