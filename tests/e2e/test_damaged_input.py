"""Every file that a command reads, damaged: one line that names it, exit code 2, nothing made."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from megatron_stare.cli import main
from tests.e2e.programs import make_workspace, write_jsonl, write_yaml

pytestmark = pytest.mark.slow

DEADLINE_S = 60
"""Where a command still waits then, it would for ever."""


def replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "noise": lambda path: path.write_bytes(random.Random(1).randbytes(3000)),
    "zeros": lambda path: path.write_bytes(bytes(5000)),
    "deep": lambda path: path.write_text("[" * 100_000),
    "pipe": lambda path: replace(path, os.mkfifo),
    "folder": lambda path: replace(path, Path.mkdir),
    "loop": lambda path: replace(path, lambda link: link.symlink_to(link.name)),
    "endless": lambda path: replace(path, lambda link: link.symlink_to("/dev/zero")),
}
WHOLE = tuple(DAMAGES)
LINES = tuple(name for name in DAMAGES if name != "half")  # Half a file of lines has lines.
WITHOUT = tuple(name for name in DAMAGES if name != "gone")  # It need not be there.
READ: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "a config": ("config train.yaml", "train.yaml", LINES),
    "prompts": ("directions write prompts.jsonl out --objectives a,b", "prompts.jsonl", LINES),
    "candidates": ("directions keep candidates.jsonl out", "candidates.jsonl", LINES),
    "recordings": ("train train.yaml", "replay.jsonl", ("empty", "noise", "loop", "pipe")),
    "passages": ("tools search word --config tools.yaml", "corpus.jsonl", WHOLE),
    "a model's config": ("plan train.yaml", "model/config.json", WHOLE),
    "a list of weights": (
        "convert hf-to-megatron model new", "model/model.safetensors.index.json", WITHOUT,
    ),
    "weights": ("convert hf-to-megatron model new", "SHARD", WHOLE),
    "a vocabulary": ("eval eval.yaml", "model/tokenizer.json", WITHOUT),
    "settings of a tokenizer": ("eval eval.yaml", "model/tokenizer_config.json", WITHOUT[:4]),
    "defaults of generation": ("eval eval.yaml", "model/generation_config.json", WITHOUT),
    "tokens": ("verify model model --tokens tokens.json", "tokens.json", WHOLE),
    "an index": ("convert megatron-to-hf mcore new", "mcore/.metadata", WHOLE),
    "a part of a checkpoint": ("convert megatron-to-hf mcore new", "mcore/__0_0.distcp", WHOLE),
}  # fmt: skip
"""A command, a file that it reads, and what is done to that."""

PIPES = [
    ("train train.yaml", "train.yaml"),
    ("sft sft.yaml", "sft.yaml"),
    ("prefer prefer.yaml", "prefer.yaml"),
    ("eval eval.yaml", "eval.yaml"),
    ("pivots pivots.yaml", "pivots.yaml"),
    ("compare compare.yaml --dry-run", "compare.yaml"),
    ("compare compare.yaml --dry-run", "train.yaml"),
    ("plan train.yaml", "train.yaml"),
    ("slurm train.yaml --dry-run", "train.yaml"),
    ("tools --config tools.yaml", "tools.yaml"),
    ("train train.yaml", "prompts.jsonl"),
    ("sft sft.yaml", "sft.jsonl"),
    ("prefer prefer.yaml", "pairs.jsonl"),
    ("train train.yaml", "model/chat_template.jinja"),
    ("sft sft.yaml", "SHARD"),
    ("verify model mcore", "mcore/common.pt"),
    ("report old", "old/metrics.jsonl"),
    ("report old", "old/config.yaml"),
]
"""Other commands, and a pipe that nobody writes to in the place of a file."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_workspace(tmp_path_factory.mktemp("good"), num_hidden_layers=1)
    write_jsonl(folder / "pairs.jsonl", [{"prompt": "1", "chosen": "2", "rejected": "3"}] * 4)
    scored = [{"prompt": "a", "response": str(n), "scores": [n, 1]} for n in range(3)]
    write_jsonl(folder / "candidates.jsonl", [row | {"direction": [1, 0]} for row in scored])
    write_jsonl(folder / "corpus.jsonl", [{"text": "a word"}])
    (folder / "tokens.json").write_text("[[1, 2, 3]]")
    model, run = {"path": f"{folder}/model"}, {"dir": f"{folder}/run"}
    prompts, exact = {"path": f"{folder}/prompts.jsonl"}, {"kind": "exact", "workers": 1}
    asked = {"model": model, "run": run, "reward": exact}
    pairs = {"path": f"{folder}/pairs.jsonl", "max_tokens": 32}
    write_yaml(folder / "prefer.yaml", {"model": model, "run": run, "data": pairs})
    write_yaml(folder / "eval.yaml", asked | {"eval": {"data": prompts, "max_response_tokens": 8}})
    write_yaml(folder / "pivots.yaml", asked | {"data": prompts, "pivots": {"max_mean": 0.5}})
    compared = {"base": f"{folder}/train.yaml", "dir": f"{folder}/run", "seeds": [1]}
    write_yaml(folder / "compare.yaml", compared | {"methods": ["grpo"]})
    write_yaml(folder / "tools.yaml", {"tools": {"search": {"corpus": f"{folder}/corpus.jsonl"}}})
    (folder / "old").mkdir()
    (folder / "old/metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5}\n')
    (folder / "old/config.yaml").write_text("{}\n")
    assert main(["convert", "hf-to-megatron", f"{folder}/model", f"{folder}/mcore"]) == 0
    (folder / "mcore/common.pt").touch()
    return folder


@pytest.fixture
def copy(workspace: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(workspace, tmp_path / "copy")
    for config in folder.glob("*.yaml"):
        config.write_text(config.read_text().replace(str(workspace), str(folder)))
    return folder


@contextlib.contextmanager
def deadline() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"still waits after {DEADLINE_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(DEADLINE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def said(folder: Path, command: str) -> str:
    """What a command that has to be refused says in its one line."""
    made = ("new", "out", "out.jsonl")
    words = [
        str(folder / word)
        if (folder / word).exists(follow_symlinks=False) or word in made
        else word
        for word in command.split()
    ]
    errors = io.StringIO()
    with deadline(), contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        assert main(words) == 2
    [line] = [text for text in errors.getvalue().splitlines() if "error:" in text]
    assert not any((folder / name).exists() for name in (*made, "run", "sft"))
    return line


def named(folder: Path, name: str) -> Path:
    return sorted((folder / "model").glob("model-*"))[0] if name == "SHARD" else folder / name


@pytest.mark.parametrize("kind", READ)
def test_a_damaged_file_is_named(copy: Path, kind: str):
    command, name, damages = READ[kind]
    path = named(copy, name)
    whole = path.read_bytes()
    for damage in damages:
        DAMAGES[damage](path)
        assert path.name in said(copy, command), damage
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(whole)


@pytest.mark.parametrize(("command", "name"), PIPES)
def test_no_command_waits_for_who_writes_to_a_pipe(copy: Path, command: str, name: str):
    path = named(copy, name)
    DAMAGES["pipe"](path)
    assert path.name in said(copy, command)
