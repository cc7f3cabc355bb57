"""A start that is refused touches nothing: whatever stands in the run's folder stays as it is."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_stare.checkpoint.folders import RUN_STATE, record_of
from megatron_stare.checkpoint.manifest import MANIFEST, read_manifest, write_manifest
from megatron_stare.cli import main
from tests.e2e.programs import make_workspace, write_jsonl
from tests.models import edit_json

pytestmark = pytest.mark.slow

Snapshot = dict[str, tuple[int, bytes]] | None


def snapshot(folder: Path) -> Snapshot:
    """When each thing in a folder was changed, and its content; None where there is no folder."""
    if not folder.exists():
        return None
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in (folder, *folder.rglob("*"))
    }


def spoil_data(folder: Path) -> None:
    rows = (folder / "prompts.jsonl").read_text().splitlines(keepends=True)
    (folder / "prompts.jsonl").write_text("".join(rows[1:]))


def spoil_shard(folder: Path) -> None:
    shard = sorted((folder / "model").glob("model-*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-100])


def spoil_recordings(folder: Path) -> None:
    write_jsonl(folder / "replay.jsonl", [{"prompt": "1+1="}])


def put_pipes(folder: Path) -> None:
    for path in (folder / "saved/checkpoints").glob(f"step_*/{MANIFEST}"):
        path.unlink()
        os.mkfifo(path)


def edit_states(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Change what checkpoints have beside tensors; their manifests know of it."""
    for step in (folder / "saved/checkpoints").glob("step_*"):
        state = torch.load(step / RUN_STATE, weights_only=True)
        edit(state)
        torch.save(state, step / RUN_STATE)
        manifest = read_manifest((step / MANIFEST).read_bytes())
        manifest["files"][RUN_STATE] = asdict(record_of(step / RUN_STATE))
        (step / MANIFEST).write_bytes(write_manifest(manifest))


def edit_manifests(folder: Path, **changes: Any) -> None:
    for path in (folder / "saved/checkpoints").glob(f"step_*/{MANIFEST}"):
        path.write_bytes(write_manifest(read_manifest(path.read_bytes()) | changes))


@dataclass(frozen=True)
class Case:
    """A start that is refused: overrides, or what `spoil` does to model and data.

    PROMPTS in an override is their file.

    in_folders  that it is refused in; the others take it
    """

    said: str
    overrides: tuple[str, ...] = ()
    spoil: Callable[[Path], object] | None = None
    in_folders: tuple[str, ...] = ("fresh", "saved", "finished", "foreign")


SAVED, UNSAVED = ("saved",), ("fresh", "finished", "foreign")
CASES = {
    "a typo in a path of data": Case("no/such.jsonl", ("data.path=no/such.jsonl",)),
    "a typo in a path of held-out data": Case("no/such", ("eval.data.path=no/such",)),
    "a typo in a path of recordings": Case("no/such", ("rollout.replay_path=no/such",)),
    "no model": Case("no/model", ("model.path=no/model",)),
    "a damaged weight": Case("safetensors", spoil=spoil_shard),
    "no end of a response": Case(
        "eos", spoil=lambda f: edit_json(f / "model" / "tokenizer_config.json", eos_token=None)
    ),
    "a tokenizer that is in Python": Case(
        r"no tokenizer\.json", spoil=lambda f: (f / "model" / "tokenizer.json").unlink()
    ),
    "a vocabulary too small": Case(
        "vocab_size", spoil=lambda f: edit_json(f / "model" / "config.json", vocab_size=200)
    ),
    "no verifier": Case("no_such_module", ("reward.kind=no_such_module:judge",)),
    "prompts too long": Case("max_prompt_tokens|0 of 12", ("data.max_prompt_tokens=2",)),
    "recordings without log-probs": Case(
        "the samples have no log-probs", ("algorithm.links=[grpo, tis]",)
    ),
    "no recordings": Case("replay.jsonl", spoil=spoil_recordings),
    "a layout of more processes": Case("world size 1", ("parallel.tensor=2",)),
    "a sample longer than the model": Case(
        "max_position_embeddings",
        ("rollout.max_response_tokens=500", "train.max_tokens_per_micro_batch=1000"),
    ),
    "nothing to go on from": Case("no checkpoint", ("run.resume=must",), in_folders=UNSAVED),
    "something to go on from": Case("run.resume=never", ("run.resume=never",), in_folders=SAVED),
    "a model in the place of the new": Case(
        "hf/final: the model of a run", ("run.resume=never",), in_folders=("finished",)
    ),
    "another seed": Case("run.seed was 1, is 2", ("run.seed=2",), in_folders=SAVED),
    "other sizes of groups": Case(
        "samples_per_prompt was 4, is 2", ("rollout.samples_per_prompt=2",), in_folders=SAVED
    ),
    "other data": Case("rows was 12, is 11", spoil=spoil_data, in_folders=SAVED),
    "other order of data": Case("shuffle was", ("data.shuffle=false",), in_folders=SAVED),
    "a source that is not there": Case(
        "no/such", ("data.path=null", "data.sources={a: {path: no/such.jsonl}}"), in_folders=SAVED
    ),
    "an empty source": Case(
        r"prompts\.jsonl: the file is empty",
        ("data.path=null", "data.sources={a: {path: PROMPTS}}"),
        spoil=lambda f: (f / "prompts.jsonl").write_text(""),
        in_folders=SAVED,
    ),
    "a source of no weight": Case(
        r"data\.sources\.a\.weight: .*greater than 0",
        ("data.path=null", "data.sources={a: {path: p, weight: 0}}"),
        in_folders=SAVED,
    ),
    "a task that nobody knows": Case(
        r"data\.sources\.a\.task=chain_sun: (no such task|the package .* is not installed)",
        ("data.path=null", "data.sources={a: {task: chain_sun}}"),
        in_folders=SAVED,
    ),
    "a verifier of a source that is none": Case(
        r"eval\.data\.sources\.a\.verifier: cannot import no_such_module:judge",
        ("eval.data={sources: {a: {path: PROMPTS, verifier: 'no_such_module:judge'}}}",),
        in_folders=SAVED,
    ),
    "sources in the place of one file": Case(
        r"data\.sources=\[a\]: .*with one set of prompts",
        ("data.path=null", "data.sources={a: {path: PROMPTS}}"),
        in_folders=SAVED,
    ),
    "another network": Case(
        "rope_theta",
        spoil=lambda f: edit_json(
            f / "model" / "config.json", rope_theta=5.0, rope_parameters=None
        ),
        in_folders=SAVED,
    ),
    "no config in the manifest": Case(
        "none of 2 checkpoints", spoil=lambda f: edit_manifests(f, config=None), in_folders=SAVED
    ),
    "a pipe in the place of a file": Case(
        "none of 2 checkpoints", spoil=put_pipes, in_folders=SAVED
    ),
    "a state without a session": Case(
        r"run_state\.pt: no state .*KeyError\('session'\)",
        spoil=lambda f: edit_states(f, lambda state: state.pop("session")),
        in_folders=SAVED,
    ),
    "a state of other links": Case(
        r"run_state\.pt: no state .*TypeError",
        spoil=lambda f: edit_states(f, lambda state: state.update(links=None)),
        in_folders=SAVED,
    ),
    "a state without prompts": Case(
        r"run_state\.pt: no state .*KeyError\('sampler'\)",
        spoil=lambda f: edit_states(f, lambda state: state["rollout_side"].pop("sampler")),
        in_folders=SAVED,
    ),
    "a position before the beginning": Case(
        "no state .*metrics_bytes=-5",
        spoil=lambda f: edit_states(
            f, lambda state: state["session"]["loggers"].update(metrics_bytes=-5)
        ),
        in_folders=SAVED,
    ),
    "fewer steps than are done": Case(
        "train.steps=1 gives it; expected 2 or more", ("train.steps=1",), in_folders=SAVED
    ),
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """Model and data, and the folders of runs of two steps beside them."""
    folder = make_workspace(tmp_path_factory.mktemp("good"))
    train(folder, "saved", "checkpoint.every=1")
    train(folder, "finished", "checkpoint.every=0")
    (folder / "foreign").mkdir()
    for name in ("notes.txt", "config.yaml", "lock.txt", "metrics.jsonl"):
        (folder / "foreign" / name).write_text("somebody's\n")
    return folder


def train(workspace: Path, name: str, *overrides: str) -> int:
    steps = [] if any(text.startswith("train.steps=") for text in overrides) else ["train.steps=2"]
    config = str(workspace / "train.yaml")
    ours = [text.replace("PROMPTS", f"{workspace}/prompts.jsonl") for text in overrides]
    return main(["train", config, f"run.dir={workspace / name}", *steps, *ours])


@pytest.fixture
def copy(workspace, tmp_path) -> Path:
    """Model, data and runs, to spoil; configs name files of the copy."""
    folder = tmp_path / "copy"
    shutil.copytree(workspace, folder)
    for config in folder.glob("*.yaml"):
        config.write_text(config.read_text().replace(str(workspace), str(folder)))
    return folder


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_refused_start_touches_nothing(copy, capsys, case):
    if case.spoil is not None:
        case.spoil(copy)
    for name in case.in_folders:
        before = snapshot(copy / name)
        assert train(copy, name, *case.overrides) == 2, name
        [error] = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert re.search(case.said, error), name
        assert snapshot(copy / name) == before, name


@pytest.fixture
def without_wandb(tmp_path, monkeypatch):
    """A home without a login, and a server that nobody answers at."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("without_wandb")
def test_a_refusal_of_wandb_which_is_asked_last_touches_no_file(copy, capsys):
    for name in ("fresh", "saved"):
        before = snapshot(copy / name)
        assert train(copy, name, "log.wandb_project=bands") == 2
        assert "log.wandb_project='bands'" in capsys.readouterr().err
        after = snapshot(copy / name)
        for found in filter(None, (before, after)):
            del found["."]  # The lock was in it.
        assert after == before
