"""Every key's extreme values: taken, or refused in one line.

The values are made of the models themselves, so that a new key is tried as it comes.
"""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.evaluation import EvalConfig
from megatron_stare.config.pivots import PivotsConfig
from megatron_stare.config.prefer import PreferConfig
from megatron_stare.config.sft import SftConfig
from megatron_stare.config_io import load_config
from megatron_stare.errors import UserError
from tests.extremes import extremes, numbers

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


@pytest.mark.parametrize("kind", [TrainConfig, SftConfig, PreferConfig, EvalConfig, PivotsConfig])
def test_every_extreme_is_taken_or_refused_in_one_line(tmp_path, kind):
    path = tmp_path / "run.yaml"
    texts = {
        "data": "data: {path: d}\n",
        "eval": "eval: {data: {path: d}}\n",
        "algorithm": "algorithm: {stare: {anneal: {to: 1, to_step: 9}}}\n",
        "pivots": "pivots: {max_mean: 0.5}\n",
    }
    sections = {
        TrainConfig: ["data", "eval", "algorithm"],
        SftConfig: ["data"],
        PreferConfig: ["data", "eval", "algorithm"],
        EvalConfig: ["eval"],
        PivotsConfig: ["data", "pivots"],
    }[kind]
    path.write_text("model: {path: m}\n" + "".join(texts[name] for name in sections))
    taken = 0
    for key, bounds in numbers(kind):
        values = {*BEYOND, *extremes(bounds)}
        accepted = {value for value in values if check(kind, path, f"{key}={value}")}
        assert accepted.isdisjoint({"1e308", ".nan", ".inf"}), key
        taken += len(accepted)
    assert taken > 20
