"""Golden numbers of the published methods, float64, rounded to nine digits unless noted."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path(__file__).parents[2] / "golden"


def method_example(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and expected outputs of one method."""
    example = json.loads((FOLDER / "methods.json").read_text())[name]
    return example["inputs"], example["expected"]


def stare_reference() -> dict[str, Any]:
    """What the STARE authors' implementation computes, unrounded."""
    return json.loads((FOLDER / "stare_reference.json").read_text())


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def assert_golden(actual: Tensor, expected: Any) -> None:
    torch.testing.assert_close(actual, tensor(expected), rtol=1e-6, atol=1e-6)
