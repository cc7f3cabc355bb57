"""Starts that can be told from a config alone: of runs on given responses."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_stare.cli import main
from tests.models import make_hf_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("preflight")
    make_hf_folder(folder / "model", "qwen2", num_hidden_layers=2)
    (folder / "rows.jsonl").write_text("{}\n")
    (folder / "run.yaml").write_text(
        f"model: {{path: {folder}/model}}\ndata: {{path: {folder}/rows.jsonl, max_tokens: 64}}\n"
    )
    return folder


@pytest.mark.parametrize("kind", ["sft", "prefer"])
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], None),
        (["parallel.tensor=2"], "world size 3 does not fit"),
        (["parallel.pipeline=3"], "pipeline"),
        (["data.max_tokens=600"], "data.max_tokens"),
        (["data.path=absent.jsonl"], "data.path=absent.jsonl: no such file"),
    ],
)
def test_a_start_is_checked_without_one(folder, capsys, kind, overrides, said):
    command = ["config", str(folder / "run.yaml"), *overrides, "--kind", kind, "--processes", "3"]
    assert main(command) == (0 if said is None else 2)
    printed = capsys.readouterr()
    assert (said or "") in printed.err
    assert (f"{kind}:\n" in printed.out) == (said is None)


def test_held_out_pairs_are_checked_too(folder, capsys):
    command = ["config", str(folder / "run.yaml"), "--kind", "prefer", "--processes", "1"]
    for max_tokens, said in ((64, "eval.data.path=absent: no such"), (600, "eval.data.max_tokens")):
        override = f"eval.data={{path: absent, max_tokens: {max_tokens}}}"
        assert main([*command[:2], override, *command[2:]]) == 2
        assert said in capsys.readouterr().err


def test_a_profile_of_states_is_one_process(folder, capsys):
    (folder / "pivots.yaml").write_text(
        f"model: {{path: {folder}/model}}\ndata: {{path: {folder}/rows.jsonl}}\n"
        "pivots: {max_mean: 0.6}\n"
    )
    command = ["config", str(folder / "pivots.yaml"), "--kind", "pivots", "--processes", "2"]
    assert main(command) == 2
    assert "--processes: --kind pivots is one process" in capsys.readouterr().err


def test_an_evaluation_is_one_process(folder, capsys):
    (folder / "eval.yaml").write_text(
        f"model: {{path: {folder}/model}}\neval: {{data: {{path: {folder}/rows.jsonl}}}}\n"
    )
    assert main(["config", str(folder / "eval.yaml"), "--kind", "eval", "--processes", "2"]) == 2
    assert "--processes: --kind eval is one process" in capsys.readouterr().err
