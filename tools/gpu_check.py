"""The first minutes on a GPU, in one command: what only a GPU can tell, checked and written down.

    python tools/gpu_check.py --out gpu_check.md

The report is Markdown, for docs/benchmarks.md. Each check runs in a process of its own and has a
limit; one that fails, dies or hangs is reported with its reason, and the others still run. The exit
code is 1 if any failed. tests/gpu_rehearsal runs it where there is no GPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gpu_checks
from gpu_checks import Options, Skipped

from megatron_stare.system.folders import write_whole


@dataclass(frozen=True, slots=True)
class Check:
    """A part of the report, and the seconds it may take."""

    title: str
    run: Callable[[Options], str]
    limit_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a check: passed, skipped or FAILED, with its table or its reason."""

    verdict: str
    text: str
    seconds: float


CHECKS = {
    "versions": Check("Installed", gpu_checks.versions, 60),
    "kernels": Check("The head's kernels next to torch", gpu_checks.kernels, 180),
    "head": Check("The head next to its matmuls and to others", gpu_checks.head, 240),
    "step": Check("SFT steps next to float32 on the CPU", gpu_checks.step, 120),
    "attention": Check("Attention that is chosen", gpu_checks.attention, 90),
    "offload": Check("A policy leaves the GPU and comes back", gpu_checks.offloading, 90),
    "sync": Check("Weights to a server", gpu_checks.sync, 420),
}


def main(
    argv: Sequence[str] | None = None,
    checks: dict[str, Check] = CHECKS,
    start_method: str = "spawn",
) -> int:
    """Run the checks, write the report, and return the exit code.

    A process that is spawned has a CUDA of its own; a rehearsal forks, to keep its device.
    """
    arguments = _parse(argv, checks)
    options = Options(arguments.tokens, arguments.vocab, arguments.hidden, arguments.python)
    context = multiprocessing.get_context(start_method)
    outcomes: dict[str, Outcome] = {}
    for name in arguments.only or checks:
        print(f"{name}: {checks[name].title} ...", flush=True)
        limit_s = checks[name].limit_s * arguments.patience
        outcome = outcomes[name] = _outcome(checks[name], options, limit_s, context)
        print(f"{name}: {outcome.verdict} in {outcome.seconds:.0f} s", flush=True)
        write_whole(arguments.out, report(outcomes, checks))
    print(arguments.out)
    return int(any(outcome.verdict == "FAILED" for outcome in outcomes.values()))


def _parse(argv: Sequence[str] | None, checks: dict[str, Check]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_check.md"), help="the report")
    parser.add_argument("--only", nargs="+", choices=list(checks), help="these checks")
    parser.add_argument("--patience", type=float, default=1.0, help="times every check's limit")
    parser.add_argument("--tokens", type=int, default=8192, help="of the head that is timed")
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--python", type=Path, default=Path(".venv-sglang/bin/python"))
    return parser.parse_args(argv)


def _outcome(check: Check, options: Options, limit_s: float, context: Any) -> Outcome:
    start = time.perf_counter()
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile("r") as log:
        process = context.Process(target=_run, args=(check, options, theirs, log.name))
        process.start()
        theirs.close()
        try:
            verdict, text = _received(ours, limit_s)
        finally:
            _end(process.pid)
            process.join()
        if verdict == "FAILED":
            text = f"{text}\n\nIts last lines:\n\n```\n{log.read()[-2000:].strip()}\n```\n"
    return Outcome(verdict, text, time.perf_counter() - start)


def _received(connection: Connection, limit_s: float) -> tuple[str, str]:
    if not connection.poll(limit_s):
        return "FAILED", f"no end within {limit_s:.0f} s"
    try:
        return connection.recv()
    except EOFError:
        return "FAILED", "its process died"


def _end(pid: int | None) -> None:
    """The check's process and what it has started, servers among them."""
    if pid is not None:
        for kill in (os.killpg, os.kill):  # it may have no group yet, or be gone
            with suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)


def _run(check: Check, options: Options, connection: Connection, log: str) -> None:
    os.setsid()
    with Path(log).open("a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        # Also for what writes without Python, as servers do.
        for standard in (1, 2):
            os.dup2(file.fileno(), standard)
        answer = _answer(check, options)
    connection.send(answer)


def _answer(check: Check, options: Options) -> tuple[str, str]:
    try:
        return "passed", check.run(options)
    except Skipped as reason:
        return "skipped", str(reason)
    except BaseException as error:
        traceback.print_exc()
        return "FAILED", f"{type(error).__name__}: {error}"[:1000]


def report(outcomes: dict[str, Outcome], checks: dict[str, Check]) -> str:
    """Markdown: a table of all checks, then what each has found."""
    rows = [
        (f"{checks[name].title} (`{name}`)", outcome.verdict, f"{outcome.seconds:.0f}")
        for name, outcome in outcomes.items()
    ]
    parts = [
        f"## On a GPU, {time.strftime('%Y-%m-%d')}\n",
        gpu_checks.table(("check", "verdict", "s"), *rows),
        *(
            f"### {checks[name].title}\n\n{outcome.text.strip()}\n"
            for name, outcome in outcomes.items()
        ),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
