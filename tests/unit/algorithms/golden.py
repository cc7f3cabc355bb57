"""Golden numbers of the published methods, float64, rounded to nine digits unless noted."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_stare.algorithms.offline import run_links, run_loss

REPO = Path(__file__).parents[3]
FOLDER = REPO / "tests" / "golden"
EXPECTED = {"credit", "states", "loss", "losses", "gradients"}
"""Keys of a step of a case that say what comes of it."""


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


def case_files() -> list[Path]:
    """Golden cases of parts: those of the table, and of the examples."""
    return sorted([*FOLDER.glob("cases/*.json"), *REPO.glob("examples/*/golden*.json")])


def assert_case(case: dict[str, Any]) -> None:
    """A method does what its golden case says.

    A case has `algorithm`, as a config has it, and `steps`, one after another. A step has
    `samples` (see `offline`), perhaps `progress`, and of what is expected of it any of `credit`
    (any of its parts), `states`, `loss`, `losses` and `gradients`.
    """
    states = None
    for number, step in enumerate(case["steps"], start=1):
        samples = step["samples"]
        assert step.keys() & EXPECTED, "nothing is expected"
        assert step.keys() <= EXPECTED | {"samples", "progress"}
        gone = step.get("progress", 0.0)
        credit, states = run_links(
            case["algorithm"], samples, step=number, progress=gone, states=states
        )
        for name, expected in step.get("credit", {}).items():
            assert_ragged(credit[name], expected)
        for name, expected in step.get("states", {}).items():
            assert states[name] == pytest.approx(expected, rel=1e-6)
        outcome = run_loss(case["algorithm"], samples, credit, progress=gone)
        # What a token weighs is float32, and the losses of good and bad samples cancel.
        loss = pytest.approx(step.get("loss", outcome.loss), rel=1e-6, abs=2e-7)
        assert outcome.loss == loss
        for name in step.keys() & {"losses", "gradients"}:
            assert_ragged(getattr(outcome, name), step[name])


def assert_ragged(actual: Any, expected: Any) -> None:
    """Lists of lists are equal, but for the ninth digit."""
    assert [len(row) for row in actual] == [len(row) for row in expected]
    assert_golden(tensor([*chain(*actual)]), [*chain(*expected)])
