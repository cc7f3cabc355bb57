"""Every key's extreme values: refused in one line, or a run of one step that ends as a run does.

The values are made of the models themselves, so that a new key is tried as it comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from megatron_stare.config.commands import EvalConfig, SftConfig, TrainConfig
from megatron_stare.config_io import bounds_of, leaves, load_config
from megatron_stare.errors import UserError
from megatron_stare.values import scalar_types
from tests.e2e.programs import make_workspace, run_command

BEYOND = [
    "0",
    "-1",
    "1e-320",
    "1e18",
    "-1e18",
    "1e308",
    ".inf",
    "-.inf",
    ".nan",
    str(2**63),
    "true",
]
"""What no key says of itself."""

LONG = {
    "train.steps",
    "rollout.prompts_per_step",
    "rollout.max_rounds",
    "rollout.samples_per_prompt",
    "eval.samples_per_prompt",
    "reward.workers",
}
"""At their largest these are a long run, or many processes, and no fault."""


def numbers(kind: type[BaseModel]) -> Iterator[tuple[str, dict[str, float]]]:
    for key, field in leaves(kind):
        if set(scalar_types(field.annotation)) & {int, float}:
            yield key, bounds_of(field.annotation, field.metadata)


def extremes(bounds: dict[str, float]) -> Iterator[str]:
    """The least and the largest value that bounds allow, as YAML."""
    for name in ("ge", "le"):
        if name in bounds:
            yield repr(bounds[name])
    if "gt" in bounds:
        yield repr(bounds["gt"] + 1e-300) if not bounds["gt"] else repr(bounds["gt"] * 1.0000001)
    if "lt" in bounds:
        yield repr(bounds["lt"] - 1)


def check(kind: type[BaseModel], path: Any, override: str) -> bool:
    """Whether a config takes it; a refusal is one short line."""
    try:
        load_config(kind, path, [override])
    except UserError as error:
        lines = str(error).splitlines()
        assert len(lines) == 1, override
        assert len(lines[0]) < 1000, override
        return False
    return True


@pytest.mark.parametrize("kind", [TrainConfig, SftConfig, EvalConfig])
def test_every_extreme_is_taken_or_refused_in_one_line(tmp_path, kind):
    path = tmp_path / "run.yaml"
    sections = {TrainConfig: ["data", "eval"], SftConfig: ["data"], EvalConfig: ["eval"]}[kind]
    texts = {"data": "data: {path: d}\n", "eval": "eval: {data: {path: d}}\n"}
    path.write_text("model: {path: m}\n" + "".join(texts[name] for name in sections))
    taken = 0
    for key, bounds in numbers(kind):
        for value in (*BEYOND, *extremes(bounds)):
            taken += check(kind, path, f"{key}={value}")
        assert not any(check(kind, path, f"{key}={value}") for value in ("1e308", ".nan", ".inf"))
    assert taken > 20


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("extremes"), num_hidden_layers=1)


TAKEN = [
    f"{key}={value}"
    for key, bounds in numbers(TrainConfig)
    if not key.startswith(("slurm.", "rollout.servers.", "parallel."))
    for value in extremes(bounds)
    if key not in LONG or value == repr(bounds.get("ge"))
]


@pytest.mark.slow
@pytest.mark.parametrize("override", TAKEN)
def test_a_step_with_an_extreme_that_is_taken_ends_as_a_run_does(workspace, tmp_path, override):
    engine = (
        "rollout.engine=embedded",
        "rollout.replay_path=null",
        "rollout.max_response_tokens=4",
    )
    ours = (f"run.dir={tmp_path}/run", "train.steps=1", *engine, "checkpoint.every=0")
    taken = [text for text in ours if not text.startswith(override.partition("=")[0] + "=")]
    done = run_command("train", workspace / "train.yaml", *taken, override)
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode in (0, 2)
    if done.returncode == 2:
        [line] = [text for text in done.stderr.splitlines() if "error:" in text]
        assert len(line) < 1000
