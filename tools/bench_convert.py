"""Speed and memory of conversion, against `cp` of the same bytes.

    python tools/bench_convert.py [--gigabytes 2] [--rounds 5] [--folder runs/bench_convert]

Makes a Qwen2-shaped Hugging Face folder of random bfloat16 weights, then in every round copies it
with `cp -r`, flushed to disk as conversion is, and converts it there and back, each in a process of
its own and in changing order, after reading what it reads. Prints a Markdown table of medians.

    cp      as it is, which has the kernel copy from file to file
    cp rw   with --reflink=never, which reads and writes, as a program must that looks at the bytes
    GB/s    bytes of the weights by wall time, without the start of Python
    of cp   the speed as a share of that of the two in the same round, median
    CPU s   user and system time
    memory  most anonymous memory above that at the start (mapped files are the page cache's),
            sampled every 5 ms; the bound is twice the largest parameter and the bytes of a part
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

from megatron_stare.weights.conversion import PART_BYTES, run_conversion
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.hf_to_megatron import HfToMegatron
from megatron_stare.weights.megatron_to_hf import MegatronToHf
from megatron_stare.weights.names import hf_shapes
from megatron_stare.weights.safetensors_writer import SafetensorsWriter, TensorSpec

CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
COPIES = {"cp": ["cp", "-r"], "cp rw": ["cp", "-r", "--reflink=never"]}
LAYER_BYTES = 93.6e6
EMBEDDING_BYTES = 2 * 466.7e6


def main() -> None:
    parser = argparse.ArgumentParser(description="Bench conversion against cp.")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench_convert"))
    parser.add_argument("--one", choices=("to-megatron", "to-hf"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder
    if arguments.one:
        print(json.dumps(convert(folder, arguments.one)))
        return
    size = make_model(folder / "hf", arguments.gigabytes)
    rounds = [one_round(folder, number) for number in range(arguments.rounds)]
    report(rounds, size, largest_parameter(folder / "hf"))
    shutil.rmtree(folder)


def make_model(folder: Path, gigabytes: float) -> int:
    """Random weights; the number of their bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    layers = round((gigabytes * 1e9 - EMBEDDING_BYTES) / LAYER_BYTES)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": layers}))
    shapes = hf_shapes(read_hf_config(folder))
    specs = {name: TensorSpec(torch.bfloat16, shape) for name, shape in shapes.items()}
    writer = SafetensorsWriter(specs, max_shard_bytes=10**9)
    writer.create(folder)
    for name, shape in shapes.items():
        writer.write(folder, {name: torch.empty(shape, dtype=torch.bfloat16).normal_()})
    return sum(spec.num_bytes for spec in specs.values())


def largest_parameter(folder: Path) -> int:
    return max(parameter.num_bytes for parameter in HfToMegatron(folder).parameters)


def one_round(folder: Path, number: int) -> dict[str, dict[str, float]]:
    """Seconds and memory of each way to move the bytes; `cp` comes first, second or last."""
    order = ["to-megatron", "to-hf"]
    order[number % 3 : number % 3] = COPIES
    results = {
        name: copy(folder, name) if name in COPIES else in_a_process(folder, name) for name in order
    }
    for name in ("megatron", "back"):
        shutil.rmtree(folder / name)
    return results


def in_a_process(folder: Path, direction: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--folder", str(folder), "--one", direction]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def copy(folder: Path, name: str) -> dict[str, float]:
    read_once(folder / "hf")
    start, cpu = time.perf_counter(), cpu_seconds(resource.RUSAGE_CHILDREN)
    subprocess.run([*COPIES[name], str(folder / "hf"), str(folder / "copy")], check=True)
    subprocess.run(["sync", *map(str, (folder / "copy").iterdir())], check=True)
    seconds = time.perf_counter() - start
    cpu = cpu_seconds(resource.RUSAGE_CHILDREN) - cpu
    shutil.rmtree(folder / "copy")
    return {"seconds": seconds, "cpu": cpu}


def convert(folder: Path, direction: str) -> dict[str, float]:
    """One direction, in this process."""
    torch.set_num_threads(1)
    read_once(folder / ("hf" if direction == "to-megatron" else "megatron"))
    with PeakMemory() as memory:
        start, cpu = time.perf_counter(), cpu_seconds(resource.RUSAGE_SELF)
        if direction == "to-megatron":
            conversion, destination = HfToMegatron(folder / "hf"), folder / "megatron"
        else:
            conversion, destination = MegatronToHf(folder / "megatron"), folder / "back"
        run_conversion(conversion, destination, threads=min(8, os.cpu_count() or 1))
        seconds = time.perf_counter() - start
        cpu = cpu_seconds(resource.RUSAGE_SELF) - cpu
    return {"seconds": seconds, "cpu": cpu, "bytes": memory.peak - memory.start}


def read_once(folder: Path) -> None:
    """So that what is read lies in the cache of files, whoever reads it."""
    subprocess.run(
        ["cat", *filter(Path.is_file, folder.iterdir())], check=True, stdout=subprocess.DEVNULL
    )


def cpu_seconds(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


class PeakMemory:
    """The most anonymous memory of this process inside the block, above that at its start."""

    def __enter__(self) -> PeakMemory:
        self.start = self.peak = _anonymous_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.peak = max(self.peak, _anonymous_bytes())


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not tell RssAnon")


def report(rounds: list[dict[str, dict[str, float]]], size: int, largest: int) -> None:
    bound = 2 * largest + PART_BYTES
    print(f"{size / 1e9:.2f} GB of weights, the largest parameter {largest / 1e6:.0f} MB\n")
    print("| | GB/s | of `cp` | of `cp rw` | CPU s | memory MB | bound MB |")
    print("|---|---|---|---|---|---|---|")
    for name in (*COPIES, "to-megatron", "to-hf"):
        speed = size / statistics.median(one[name]["seconds"] for one in rounds) / 1e9
        shares = [
            statistics.median(one[other]["seconds"] / one[name]["seconds"] for one in rounds)
            for other in COPIES
        ]
        cpu = statistics.median(one[name]["cpu"] for one in rounds)
        memory = max(one[name].get("bytes", 0) for one in rounds)
        cells = (f"{memory / 1e6:.0f}", f"{bound / 1e6:.0f}") if memory else ("", "")
        cells = (*(f"{share:.0%}" for share in shares), f"{cpu:.1f}", *cells)
        print(f"| {name} | {speed:.2f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
