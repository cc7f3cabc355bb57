"""What a checkpoint costs: seconds that training is held up, and GB/s, against `cp` of the same.

    python tools/bench_checkpoint.py [--parameters 200e6] [--rounds 6] [--folder FOLDER]
    torchrun --standalone --nproc-per-node 2 tools/bench_checkpoint.py

Data-parallel processes, one thread each, with a float32 policy of random weights and Adam's two
moments for each. Every round saves once synchronously, twice asynchronously, and copies a folder
with `cp` and makes the copy reach the disk, as a save does. Prints a Markdown table of medians.
    asynchronous    nothing else runs meanwhile
    while training  the first step after the save is a real one, of a few tokens
    held up         seconds that training waits: for the plan of the save, in that step for the
                    copy, and to begin with the commit
    copied          seconds until weights may change
    written         seconds until the checkpoint is there, checksums and all
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import Qwen3Config

from megatron_stare.algorithms.objective import MethodObjective
from megatron_stare.checkpoint.saver import Saver
from megatron_stare.config.policy import ModelConfig, OptimConfig, ParallelConfig
from megatron_stare.config.run import CheckpointConfig
from megatron_stare.data.packing import Share
from megatron_stare.launch.rank_zero import from_rank_zero
from megatron_stare.launch.topology import init_process_group, read_topology
from megatron_stare.policy.build import build_policy
from megatron_stare.policy.groups import build_groups
from megatron_stare.policy.step import Policy
from megatron_stare.sft import supervised_objective
from megatron_stare.types import TokenBatch
from megatron_stare.weights.hf_config import read_hf_config

LAYERS, VOCAB = 12, 8192
SAMPLES, TOKENS = 8, 32
"""Of a training step, on each process."""
WAYS = ("synchronous", "asynchronous", "while training", "cp")


@dataclass(frozen=True)
class Times:
    """Seconds: see above; `copied` and `step` where they are measured."""

    held_up: float
    written: float
    copied: float = math.nan
    step: float = math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description="Save, asynchronously save, and copy.")
    parser.add_argument("--parameters", type=float, default=200e6)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to be measured")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    init_process_group(read_topology())
    with shared_folder(arguments.folder) as folder:
        bench = Bench(make_policy(folder / "model", arguments.parameters), folder)
        rounds = [bench.measure(number + 1) for number in range(arguments.rounds)]
        bench.close()
    if dist.get_rank() == 0:
        report(rounds, bench.size)
    dist.destroy_process_group()


def report(rounds: list[dict[str, Times]], size: int) -> None:
    """The table, and the ratios of the goals."""
    medians = {
        name: Times(
            **{
                field.name: statistics.median(getattr(times[name], field.name) for times in rounds)
                for field in fields(Times)
            }
        )
        for name in WAYS
    }
    print("| | held up s | copied s | written s | GB/s |\n|---|---|---|---|---|")
    for name, times in medians.items():
        seconds = (times.held_up, times.copied, times.written, size / times.written / 1e9)
        cells = ("" if math.isnan(number) else f"{number:.2f}" for number in seconds)
        print(f"| {name} | {' | '.join(cells)} |")
    synchronous, training = medians["synchronous"], medians["while training"]
    print(f"\n{size / 1e9:.2f} GB; held up / synchronous: ", end="")
    print(f"{medians['asynchronous'].held_up / synchronous.held_up:.2f}, ", end="")
    print(f"while training {training.held_up / synchronous.held_up:.2f}; ", end="")
    cp_s = medians["cp"].written
    print(f"GB/s / cp: {cp_s / synchronous.written:.2f}, ", end="")
    print(f"asynchronous {cp_s / medians['asynchronous'].written:.2f}; ", end="")
    print(f"step {synchronous.step:.2f} s, with a save {training.step:.2f} s")


@contextmanager
def shared_folder(parent: Path | None) -> Iterator[Path]:
    """A temporary folder of all processes."""
    with ExitStack() as stack:
        yield Path(
            from_rank_zero(lambda: stack.enter_context(tempfile.TemporaryDirectory(dir=parent)))
        )
        dist.barrier()


def make_policy(folder: Path, num_parameters: float) -> Policy:
    """Random, of about so many parameters."""
    hidden = int((num_parameters / LAYERS / 14) ** 0.5) // 64 * 64
    shape = Qwen3Config(
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=LAYERS,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        head_dim=64,
        vocab_size=VOCAB,
        architectures=["Qwen3ForCausalLM"],
    )
    if dist.get_rank() == 0:
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(shape.to_dict()))
    dist.barrier()
    return build_policy(
        read_hf_config(folder),
        build_groups(ParallelConfig()),
        model=ModelConfig(path=folder, random_init=True),
        parallel=ParallelConfig(),
        optim=OptimConfig(),
        num_updates=100,
        temperature=1.0,
        seed=1,
        device=torch.device("cpu"),
    )


class Bench:
    """The ways, one after the other in a folder of a disk; the next round in another order.

    The first save of a run makes the memory for the copies: it is not measured.
    """

    def __init__(self, policy: Policy, folder: Path) -> None:
        self._policy = policy
        self._folder = folder
        self._savers = {
            name: Saver(
                folder / name,
                CheckpointConfig(keep_last=1, asynchronous=name != "synchronous"),
                {},
                print,
            )
            for name in WAYS[:-1]
        }
        self._batch = make_batch()
        self._take_step()
        for saver in self._savers.values():
            saver.save(0, policy, {})
            saver.finish()
        self._source = folder / "source"
        if dist.get_rank() == 0:
            shutil.move(folder / "synchronous", self._source)
        dist.barrier()
        self.size = sum(path.stat().st_size for path in self._source.rglob("*"))

    def measure(self, number: int) -> dict[str, Times]:
        """Of round 1, 2, ...."""
        measured = {}
        for name in WAYS[number % len(WAYS) :] + WAYS[: number % len(WAYS)]:
            dist.barrier()
            measured[name] = self._save(name, number) if name in self._savers else self._copy()
            dist.barrier()
            if dist.get_rank() == 0:
                shutil.rmtree(self._folder / name)
                os.sync()  # What one leaves to be done is not the next one's.
        return measured

    def close(self) -> None:
        """End the savers' threads."""
        for saver in self._savers.values():
            saver.close()

    def _save(self, name: str, number: int) -> Times:
        saver, start = self._savers[name], time.perf_counter()
        saver.save(number, self._policy, {})
        held_up = time.perf_counter() - start
        if name == "synchronous":
            return Times(held_up, written=held_up, step=self._take_step()[0])
        step, waited = self._take_step() if name == "while training" else (math.nan, 0.0)
        self._policy.before_change()
        copied = time.perf_counter() - start if name == "asynchronous" else math.nan
        while not saver.is_written:
            time.sleep(0.001)
        dist.barrier()
        begin = time.perf_counter()
        saver.commit()
        held_up += waited + time.perf_counter() - begin
        saver.finish()
        return Times(held_up, time.perf_counter() - start, copied, step)

    def _take_step(self) -> tuple[float, float]:
        """Seconds of forward, backward and update, and how long this waited for a copy."""
        policy, waited = self._policy, 0.0
        wait_for_copy = policy.before_change

        def timed_wait() -> None:
            nonlocal waited
            begin = time.perf_counter()
            wait_for_copy()
            waited += time.perf_counter() - begin

        policy.before_change = timed_wait
        start = time.perf_counter()
        policy.update(self._batch, [tuple(range(SAMPLES))], self._objective(policy))
        policy.before_change = wait_for_copy
        return time.perf_counter() - start, waited

    def _objective(self, policy: Policy) -> MethodObjective:
        """Of all samples, on every process."""
        samples = list(range(SAMPLES))
        share = Share([samples], [[tuple(samples)]], torch.arange(len(self._batch.loss_mask)))
        return supervised_objective(self._batch, share, policy)

    def _copy(self) -> Times:
        start = time.perf_counter()
        if dist.get_rank() == 0:
            copy_durably(self._source, self._folder / "cp")
        seconds = time.perf_counter() - start
        return Times(seconds, seconds)


def make_batch() -> TokenBatch:
    """Samples of random tokens."""
    responses = torch.full((SAMPLES,), TOKENS - 1)
    return TokenBatch(
        token_ids=torch.randint(VOCAB, (SAMPLES * TOKENS,)),
        prompt_lengths=torch.ones(SAMPLES, dtype=torch.int64),
        response_lengths=responses,
        loss_mask=torch.ones(int(responses.sum()), dtype=torch.bool),
    )


def copy_durably(source: Path, copy: Path) -> None:
    """`cp -r`, and every file of the copy on the disk."""
    subprocess.run(["cp", "-r", str(source), str(copy)], check=True)
    for path in copy.rglob("*.*"):
        with path.open("rb+") as file:
            os.fsync(file.fileno())


if __name__ == "__main__":
    main()
