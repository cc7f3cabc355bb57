"""What a command finds no room for is one line that names it, and what stood there stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_stare.cli import main
from megatron_stare.commands.compare import RUN_FAILED
from tests.disks import full_disk
from tests.e2e.programs import make_workspace, write_jsonl, write_yaml

pytestmark = pytest.mark.slow

WRITERS: dict[str, Callable[[Path, Path], list[str]]] = {
    "report": lambda w, out: ["report", f"{w}/compared/grpo-seed1", "--out", f"{out}"],
    "slurm": lambda w, out: ["slurm", f"{w}/train.yaml", "--out", f"{out}/job.sbatch"],
    "directions write": lambda w, out: [
        *("directions", "write", f"{w}/prompts.jsonl", f"{out}/prompts.jsonl"),
        *("--objectives", "a,b"),
    ],
    "directions keep": lambda w, out: [
        *("directions", "keep", f"{w}/candidates.jsonl", f"{out}/kept.jsonl")
    ],
    "convert to Megatron": lambda w, out: [
        *("convert", "hf-to-megatron", f"{w}/model", f"{out}/megatron", "--force")
    ],
    "convert to Hugging Face": lambda w, out: [
        *("convert", "megatron-to-hf", f"{w}/megatron", f"{out}/hf", "--force")
    ],
    "eval": lambda w, out: ["eval", f"{w}/eval.yaml", f"run.dir={out}"],
    "pivots": lambda w, out: ["pivots", f"{w}/pivots.yaml", f"run.dir={out}"],
    "compare": lambda w, out: ["compare", f"{w}/compare.yaml", f"dir={out}", "--table"],
    "compare on Slurm": lambda w, out: [
        *("compare", f"{w}/compare.yaml", f"dir={out}", "seeds=[1, 2]", "--slurm")
    ],
}
"""Commands of a workspace that write into a folder."""
TIMED = ("eval_samples.jsonl", "metrics.jsonl", "comparison.md", "comparison.json")
"""What says when, or how long something took, so that no two are alike."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    folder = make_workspace(tmp_path_factory.mktemp("writers"), num_hidden_layers=1)
    model = {"model": {"path": f"{folder}/model"}, "log": {"progress": False}}
    problems = {"path": f"{folder}/prompts.jsonl", "max_prompt_tokens": 40}
    judge = {"reward": {"kind": "tests.e2e.verifiers:likes_some", "workers": 1}}
    write_yaml(
        folder / "eval.yaml",
        model | judge | {"eval": {"data": problems, "max_response_tokens": 8}},
    )
    limits = {"max_mean": 0.6, "samples_per_state": 4, "max_response_tokens": 6}
    write_yaml(folder / "pivots.yaml", model | judge | {"data": problems, "pivots": limits})
    compared = {"base": f"{folder}/train.yaml", "dir": f"{folder}/compared", "methods": ["grpo"]}
    write_yaml(folder / "compare.yaml", compared | {"seeds": [1], "settings": {"train.steps": 1}})
    candidate = {"prompt": "a", "direction": [1, 0], "response": "b", "rewards": [1, 2]}
    write_jsonl(folder / "candidates.jsonl", [candidate])
    assert main(["convert", "hf-to-megatron", f"{folder}/model", f"{folder}/megatron"]) == 0
    run = [f"run.dir={folder}/compared/grpo-seed1", "algorithm.method=grpo", "train.steps=1"]
    assert main(["train", f"{folder}/train.yaml", *run]) == 0
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    """Files by name, but for what a conversion keeps to go on from."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".partial" not in str(path)
    }


@pytest.mark.parametrize("num_bytes", [0, 1000, 20_000])
@pytest.mark.parametrize("name", WRITERS)
def test_a_command_that_finds_no_room_says_so_and_harms_nothing(
    workspace, tmp_path, capsys, name, num_bytes
):
    """Or has room: what it wrote is whole."""
    out = tmp_path / "out"
    out.mkdir()
    command = WRITERS[name](workspace, out)
    assert main(command) in (0, RUN_FAILED), capsys.readouterr().err
    before = content_of(out)
    assert before
    capsys.readouterr()
    with full_disk(num_bytes):
        code = main(command)
    error = capsys.readouterr().err.strip()
    if code == 2:
        assert error.count("\n") == 0, error
        assert error.startswith("megatron-stare: error: ")
        assert "File too large" in error or "No usable temporary directory" in error
        assert str(out) in error or "temporary" in error
    else:
        assert num_bytes, "it wrote nothing"
    assert content_of(out).keys() == before.keys(), "nothing is left over"
    same = {path: content for path, content in before.items() if path not in TIMED}
    assert {path: content_of(out)[path] for path in same} == same
    assert main(command) in (0, RUN_FAILED), "with room again"
    assert {path: content_of(out)[path] for path in same} == same
    assert not list(out.rglob("*.unfinished"))
    assert not list(out.rglob("*.partial"))
