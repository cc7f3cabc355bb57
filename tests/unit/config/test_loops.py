"""A config says by its sections which command it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_stare.config.loops import LOOPS
from megatron_stare.config_io import load_one_of
from megatron_stare.errors import UserError


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("model: {path: model}\ndata: {path: rows.jsonl}\n")
    return path


@pytest.mark.parametrize(
    ("overrides", "command"),
    [
        ((), "train"),
        (("train.steps=3",), "train"),
        (("sft.steps=3",), "sft"),
        (("optim.lr=1e-5", "prefer.steps=3"), "prefer"),
        (("prefer={}",), "prefer"),
    ],
)
def test_the_section_of_its_loop_names_the_command(path, overrides, command):
    config = load_one_of(LOOPS, path, overrides)
    assert (config.command, type(config)) == (command, LOOPS[command])


def test_a_file_says_it_as_overrides_do(path):
    path.write_text(path.read_text() + "prefer: {steps: 7}\n")
    assert load_one_of(LOOPS, path).loop.steps == 7


def test_it_is_for_one_command(path):
    with pytest.raises(UserError, match=r"run.yaml: has sections sft and prefer, expected one"):
        load_one_of(LOOPS, path, ["prefer.steps=1", "sft.steps=1"])


@pytest.mark.parametrize("command", LOOPS)
def test_its_keys_are_those_of_its_command(path, command):
    with pytest.raises(UserError, match=rf"{command}\.stepz: unknown key"):
        load_one_of(LOOPS, path, [f"{command}.stepz=1"])
