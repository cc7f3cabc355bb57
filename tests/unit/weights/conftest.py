"""A small model, and the checkpoint that it becomes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models import make_hf_folder
from tests.unit.weights.conversions import to_megatron


@pytest.fixture
def hf(tmp_path) -> Path:
    return make_hf_folder(tmp_path / "hf", "qwen2")


@pytest.fixture
def checkpoint(hf, tmp_path) -> Path:
    return to_megatron(hf, tmp_path / "checkpoint")
