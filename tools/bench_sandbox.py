"""What a call of the tool `python` costs, by kind of walls: calls a second, and time a call adds.

    python tools/bench_sandbox.py [--workers 2] [--seconds 5]

Prints a Markdown table:
    start     until the first template is warm, its packages imported
    alone     one call after the other: median and 95th percentile of the time from call to answer
    adds      the median, without the time that the code itself takes in a warm process
    processor the time of it that a call takes, by all processes together; other load of the
              machine changes it less than it does the others
    together  calls a second of as many callers as workers
A `cold` row starts a process for each call, as a sandbox without templates does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles

from megatron_stare.tools.sandbox.confine import Limits
from megatron_stare.tools.sandbox.isolation import (
    WALLS,
    Interpreter,
    command,
    environment,
    interpreter,
)
from megatron_stare.tools.sandbox.pool import Sandbox, trouble_with

PACKAGES = ("numpy", "sympy")
LIMITS = Limits(cpu_s=10, memory_bytes=1 << 30, file_bytes=16 << 20, output_bytes=64 << 10)
CODES = {
    "`print(1)`": "print(1)",
    "numpy": "import numpy as np\nprint(np.linalg.det(np.eye(9) * 2))",
    "sympy": "from sympy import *\nx = symbols('x')\nprint(solve(x**2 - 5*x + 6))",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    print("| walls | code | start s | alone ms | 95% ms | adds ms | processor ms | together / s |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for walls in WALLS:
        if trouble := trouble_with(walls):
            print(f"{walls} is left out: {trouble}", file=sys.stderr)
            continue
        for row in measure(walls, arguments.workers, arguments.seconds):
            print(row, flush=True)
    python = interpreter(PACKAGES)
    for name, code in CODES.items():
        before = processor_s()
        times = timed(lambda code=code: run_cold(python, code), arguments.seconds)
        used = (processor_s() - before) / len(times)
        print(f"| cold | {name} | | {ms(median(times))} | {ms(late(times))} | | {ms(used)} | |")


def measure(walls: str, workers: int, seconds: float) -> Iterator[str]:
    start = time.perf_counter()
    with Sandbox(walls, PACKAGES, LIMITS, workers=workers, wait_s=60) as sandbox:
        sandbox.run("", 60)
        start_s = time.perf_counter() - start
        with ThreadPoolExecutor(workers) as threads:
            list(
                threads.map(lambda _: sandbox.run("import time; time.sleep(1)", 60), range(workers))
            )
        for name, code in CODES.items():
            before = processor_s()
            times = timed(lambda code=code: sandbox.run(code, 60), seconds)
            used = (processor_s() - before) / len(times)
            own = own_time(sandbox, code)
            a_second = together(lambda code=code: sandbox.run(code, 60), workers, seconds)
            yield (
                f"| {walls} | {name} | {start_s:.2f} | {ms(median(times))} | {ms(late(times))} "
                f"| {ms(median(times) - own)} | {ms(used)} | {a_second:.0f} |"
            )


def own_time(sandbox: Sandbox, code: str) -> float:
    """Seconds that code takes by itself where a call runs it."""
    timer = f"import time\nstart = time.perf_counter()\nexec({code!r})\n"
    timer += "print(time.perf_counter() - start)"
    return median(float(sandbox.run(timer, 60).output.split()[-1]) for _ in range(9))


def processor_s() -> float:
    """Of this process and all below it, with those of theirs that have ended."""
    waiting, total = [os.getpid()], time.process_time() + sum(os.times()[2:4])
    while waiting:
        tasks = Path(f"/proc/{waiting.pop()}/task").iterdir()
        children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
        for pid in children:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        waiting += children
    return total


def run_cold(python: Interpreter, code: str) -> None:
    path = ":".join(python.import_path)
    program = command("none", python.readable, 0)[0]
    subprocess.run(
        [program, "-s", "-S", "-P", "-c", code],
        env={**environment(), "PYTHONPATH": path},
        capture_output=True,
        check=True,
    )


def timed(call: Callable[[], object], seconds: float) -> list[float]:
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def together(call: Callable[[], object], workers: int, seconds: float) -> float:
    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as threads:
        counts = threads.map(lambda _: len(timed(call, seconds)), range(workers))
    return sum(counts) / (time.perf_counter() - start)


def late(times: list[float]) -> float:
    return quantiles(times, n=20)[-1]


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


if __name__ == "__main__":
    main()
