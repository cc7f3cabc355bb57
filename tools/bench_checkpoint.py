"""What a checkpoint costs: seconds that training is held up, and GB/s, against `cp` of the same.

    python tools/bench_checkpoint.py [--parameters 200e6] [--rounds 6] [--folder FOLDER]

One process with a float32 policy of random weights and Adam's two moments for each. Every round
saves once synchronously, once asynchronously, and copies a folder with `cp` and makes the copy
reach the disk, as a save does. Prints a Markdown table of medians.
    held up  seconds until the run goes on: it may generate, score, and compute gradients
    copied   seconds until weights may change
    written  seconds until the checkpoint is there, checksums and all
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import Qwen3Config

from megatron_stare.checkpoint.saver import Saver
from megatron_stare.config.policy import ModelConfig, OptimConfig, ParallelConfig
from megatron_stare.config.run import CheckpointConfig
from megatron_stare.launch.topology import init_process_group, read_topology
from megatron_stare.policy.build import build_policy
from megatron_stare.policy.groups import build_groups
from megatron_stare.policy.step import Policy
from megatron_stare.weights.hf_config import read_hf_config

LAYERS, VOCAB = 12, 8192
EVENTS = ("held up", "copied", "written")


def main() -> None:
    parser = argparse.ArgumentParser(description="Save, asynchronously save, and copy.")
    parser.add_argument("--parameters", type=float, default=200e6)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to be measured")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    init_process_group(read_topology())
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        policy = make_policy(Path(folder) / "model", arguments.parameters)
        bench = Bench(policy, Path(folder))
        rounds = [bench.measure(number + 1) for number in range(arguments.rounds)]
        bench.close()
    dist.destroy_process_group()
    medians = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    print("| | held up s | copied s | written s | GB/s |\n|---|---|---|---|---|")
    for name in ("synchronous", "asynchronous", "cp"):
        seconds = [medians[f"{name} {event}"] for event in EVENTS]
        cells = " | ".join(f"{number:.2f}" for number in [*seconds, medians["GB"] / seconds[-1]])
        print(f"| {name} | {cells} |")
    ratio = medians["asynchronous held up"] / medians["synchronous held up"]
    print(f"\n{medians['GB']:.2f} GB; held up, asynchronous / synchronous: {ratio:.2f}; ", end="")
    for name in ("synchronous", "asynchronous"):
        speed = medians["cp written"] / medians[f"{name} written"]
        print(f"GB/s, {name} / cp: {speed:.2f}", end="\n" if name == "asynchronous" else "; ")


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
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shape.to_dict()))
    return build_policy(
        read_hf_config(folder),
        build_groups(ParallelConfig()),
        model=ModelConfig(path=folder, random_init=True),
        parallel=ParallelConfig(),
        optim=OptimConfig(),
        num_updates=1,
        temperature=1.0,
        seed=1,
        device=torch.device("cpu"),
    )


class Bench:
    """The three ways, one after the other in a folder of a disk; the next round in another order.

    The first save of a run makes the memory for the copies: it is not measured.
    """

    def __init__(self, policy: Policy, folder: Path) -> None:
        self._policy = policy
        self._folder = folder
        self._savers = {
            name: Saver(folder / name, CheckpointConfig(keep_last=1), {}, print)
            for name in ("synchronous", "asynchronous")
        }
        for saver in self._savers.values():
            saver.save(0, policy, {})
            saver.finish()
        self._source = folder / "source"
        shutil.move(folder / "synchronous", self._source)
        self._size = sum(path.stat().st_size for path in self._source.rglob("*"))

    def measure(self, number: int) -> dict[str, float]:
        """Seconds of round 1, 2, ..., and the gigabytes of a checkpoint."""
        seconds: dict[str, float] = {"GB": self._size / 1e9}
        ways = [*self._savers, "cp"]
        for name in ways[number % 3 :] + ways[: number % 3]:
            times = self._save(name, number) if name != "cp" else self._copy()
            seconds |= {f"{name} {event}": time for event, time in zip(EVENTS, times, strict=True)}
            shutil.rmtree(self._folder / name)
            os.sync()  # What one leaves to be done is not the next one's.
        return seconds

    def close(self) -> None:
        """End the savers' threads."""
        for saver in self._savers.values():
            saver.close()

    def _save(self, name: str, number: int) -> tuple[float, float, float]:
        saver, start = self._savers[name], time.perf_counter()
        saver.save(number, self._policy, {})
        held_up = time.perf_counter() - start
        self._policy.before_change()
        copied = time.perf_counter() - start
        saver.finish()
        written = time.perf_counter() - start
        return (written, written, written) if name == "synchronous" else (held_up, copied, written)

    def _copy(self) -> tuple[float, float, float]:
        start = time.perf_counter()
        copy_durably(self._source, self._folder / "cp")
        seconds = time.perf_counter() - start
        return seconds, seconds, seconds


def copy_durably(source: Path, copy: Path) -> None:
    """`cp -r`, and every file of the copy on the disk."""
    subprocess.run(["cp", "-r", str(source), str(copy)], check=True)
    for path in copy.rglob("*.*"):
        with path.open("rb+") as file:
            os.fsync(file.fileno())


if __name__ == "__main__":
    main()
