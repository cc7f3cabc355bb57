"""Running the real commands: a tiny model, arithmetic prompts, recorded samples."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.models import make_hf_folder
from tests.tool_tokenizer import make_tool_tokenizer
from tests.worlds import FORKSERVER

REPO = Path(__file__).parents[2]


def make_workspace(folder: Path, family: str = "qwen3", **model) -> Path:
    """A model, prompts, recorded samples of mixed groups, and the configs that name them."""
    make_hf_folder(folder / "model", family, **model)
    rng = random.Random(0)
    problems = [
        {"prompt": f"{a}+{b}=", "answer": str(a + b)}
        for a, b in ((rng.randint(1, 9), rng.randint(10, 99)) for _ in range(12))
    ]
    write_jsonl(folder / "prompts.jsonl", problems)
    write_jsonl(folder / "replay.jsonl", [r for p in problems for r in _recorded(p, rng)])
    write_jsonl(
        folder / "sft.jsonl",
        [{"prompt": p["prompt"], "response": p["answer"]} for p in problems],
    )
    common = {"model": {"path": str(folder / "model")}, "log": {"progress": False}}
    write_yaml(
        folder / "train.yaml",
        common
        | {
            "run": {"dir": str(folder / "run")},
            "data": {"path": str(folder / "prompts.jsonl"), "max_prompt_tokens": 16},
            "rollout": {
                "engine": "replay",
                "replay_path": str(folder / "replay.jsonl"),
                "prompts_per_step": 4,
                "samples_per_prompt": 4,
                "max_response_tokens": 48,
            },
            "reward": {"kind": "exact", "workers": 1},
            "algorithm": {"stare": {"target_entropy": 9.0}},
            # A large eps: Adam's sign-like step would blow rounding up where gradients are tiny.
            "optim": {"lr": 1e-3, "eps": 1e-3},
            "train": {"steps": 2, "max_tokens_per_micro_batch": 96},
        },
    )
    write_yaml(
        folder / "sft.yaml",
        common
        | {
            "run": {"dir": str(folder / "sft")},
            "data": {"path": str(folder / "sft.jsonl"), "max_tokens": 32},
            "optim": {"lr": 1e-2},
            "sft": {"steps": 8, "examples_per_step": 8, "max_tokens_per_micro_batch": 64},
        },
    )
    return folder


SHORT_TURNS = (
    *("rollout.engine=embedded", "rollout.replay_path=null", "rollout.dynamic_sampling=false"),
    *("rollout.max_response_tokens=300", "rollout.turns.max_turns=4", "data.max_prompt_tokens=64"),
    *("rollout.turns.max_turn_tokens=40", "rollout.prompts_per_step=2"),
    *("train.max_tokens_per_micro_batch=1800", "log.dump_samples=true"),
    *("train.steps=3", "checkpoint.every=1"),
)
"""Settings of a run in that workspace whose episodes are of up to four short turns."""


def make_turn_workspace(folder: Path) -> Path:
    """The same with a tokenizer that has marks for calls of tools, and room for several turns."""
    tokenizer = make_tool_tokenizer()
    return make_workspace(
        folder,
        num_hidden_layers=1,
        tokenizer=tokenizer,
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
    )


def _recorded(problem: dict[str, str], rng: random.Random) -> list[dict[str, str]]:
    """Four responses: two right, two wrong, wrong ones rambling."""
    wrong = ["so it is " + "9" * rng.randint(1, 30) for _ in range(2)]
    return [
        {"prompt": problem["prompt"], "response": text}
        for text in (problem["answer"], wrong[0], problem["answer"], wrong[1])
    ]


def write_jsonl(path: Path, rows: list[dict]) -> None:
    """One row a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_yaml(path: Path, tree: dict) -> None:
    """A config file."""
    path.write_text(yaml.safe_dump(tree))


def run_command(*arguments: object, processes: int = 1) -> subprocess.CompletedProcess[str]:
    """`megatron-stare ARGUMENTS`, under torchrun where `processes` > 1.

    One process forks from a server that has imported torch and the trainer: it starts at once.
    """
    command = [str(argument) for argument in arguments]
    if processes == 1:
        return run_forked(_command, command)
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "megatron_stare.cli", *command],
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def run_forked(
    function: Callable[[list[str]], int | None], command: list[str]
) -> subprocess.CompletedProcess[str]:
    """`function(command)`, at the top of a module, as a program: its exit code and its output."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = FORKSERVER.Process(target=_main, args=(function, command, out, err))
        process.start()
        process.join(timeout=240)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{command}: still runs\n{out.read_text()}{err.read_text()}")
        return subprocess.CompletedProcess(
            command, process.exitcode, out.read_text(), err.read_text()
        )


def _main(
    function: Callable[[list[str]], int | None], command: list[str], out: Path, err: Path
) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(REPO)
    import torch

    torch.set_num_threads(1)
    sys.exit(function(command))


def _command(command: list[str]) -> int:
    from megatron_stare.cli import main

    return main(command)


def succeed(*arguments: object, processes: int = 1) -> str:
    """Run a command that must exit 0; return what it printed."""
    done = run_command(*arguments, processes=processes)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def metrics_of(run_dir: Path) -> list[dict[str, float]]:
    """The metrics of a run, one dict a step."""
    steps: dict[int, dict[str, float]] = {}
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        del record["unix_time_s"]
        steps.setdefault(record.pop("step"), {}).update(record)
    return [steps[step] for step in sorted(steps)]
