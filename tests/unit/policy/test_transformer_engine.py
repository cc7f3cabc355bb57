"""What is decided where Transformer Engine is, and where it is without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from megatron_stare.policy import layer_spec
from megatron_stare.policy.layer_spec import block_spec, uses_transformer_engine
from megatron_stare.policy.norm import RMSNorm
from tests.unit.policy.shapes import TINY

IMPORTING = """
    import sys, torch
    torch.cuda.is_available = lambda: {has_gpu}
    from megatron_stare.policy.layer_spec import HAVE_TE
    import megatron.core.optimizer as optimizer
    print("torch's optimizer", optimizer.USING_PYTORCH_OPTIMIZER)
"""


@pytest.fixture
def stand_in(tmp_path) -> Path:
    """A Transformer Engine that says that it is asked for, and then is not there."""
    package = tmp_path / "transformer_engine"
    package.mkdir()
    (package / "__init__.py").write_text(
        'print("asked for")\nraise ModuleNotFoundError("a stand-in")\n'
    )
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("has_gpu", [False, True])
def test_megatron_takes_transformer_engine_only_where_there_is_a_gpu(stand_in, has_gpu):
    program = textwrap.dedent(IMPORTING.format(has_gpu=has_gpu))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(stand_in)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert ("asked for" in said) == has_gpu
    assert said[-1] == "torch's optimizer True"


@pytest.mark.parametrize(
    ("is_installed", "has_gpu", "dtype", "expected"),
    [
        (True, True, torch.bfloat16, True),
        (True, True, torch.float32, False),  # its fused attention takes none
        (True, False, torch.bfloat16, False),
        (False, True, torch.bfloat16, False),
    ],
)
def test_layers_are_its_in_bfloat16_on_a_gpu(monkeypatch, is_installed, has_gpu, dtype, expected):
    monkeypatch.setattr(layer_spec, "HAVE_TE", is_installed)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert uses_transformer_engine(dtype) is expected


def test_float32_has_layers_of_torch_where_transformer_engine_is(monkeypatch):
    monkeypatch.setattr(layer_spec, "HAVE_TE", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert block_spec(TINY, 2, torch.float32).layer_norm is RMSNorm
