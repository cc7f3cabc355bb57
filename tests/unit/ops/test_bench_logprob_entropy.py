"""The head's bench: its bare matmuls are the op's, and goals say what was not measured."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.dense_head import assert_near_in_norm

TOOLS = Path(__file__).parents[3] / "tools"


@pytest.fixture
def bench(monkeypatch) -> ModuleType:
    """Imported as when it is run: its peers lie beside it."""
    monkeypatch.setattr(sys, "path", [str(TOOLS), *sys.path])
    return importlib.import_module("bench_logprob_entropy")


def row(bench: ModuleType, name: str, both_ms: float, error: float, materialises_logits=False):
    counts = (0, 0, 0, 0, 0)
    return bench.Row(name, materialises_logits, both_ms / 4, both_ms, *counts, (error,) * 4)


def test_goals_on_cuda_are_bare_matmuls_and_verls_kernel(bench):
    rows = [
        row(bench, "this op", 120.0, 1e-6),
        row(bench, "plain torch", 90.0, 1e-6, True),
        row(bench, "verl kernel", 100.0, 1e-6),
        row(bench, "bare matmuls", 100.0, torch.nan),
    ]
    assert [goal.line() for goal in bench.time_goals_on_cuda(rows)] == [
        "| forward+backward / bare matmuls | 1.2 | 1.25 | pass |",
        "| forward+backward / verl kernel | 1.2 | 1.0 | MISS |",
    ]


def test_a_peer_that_did_not_run_is_not_measured(bench):
    rows = [row(bench, "this op", 120.0, 1e-6), row(bench, "bare matmuls", 100.0, torch.nan)]
    *_, last = bench.time_goals_on_cuda(rows)
    assert last.line() == "| forward+backward / verl kernel | - | 1.0 | not measured |"


def test_goals_on_a_cpu_are_the_correct_paths_with_logits(bench):
    rows = [
        row(bench, "this op", 120.0, 1e-6),
        row(bench, "this op, after a prepass", 80.0, 1e-6),
        row(bench, "plain torch", 100.0, 1e-6, True),
        row(bench, "Megatron-Core + entropy", 50.0, 3e-2, True),
        row(bench, "bare matmuls", 100.0, torch.nan),
    ]
    assert [goal.line() for goal in bench.time_goals_on_cpu(rows)] == [
        "| forward / plain torch | 1.2 | 1.1 | MISS |",
        "| forward+backward / plain torch | 1.2 | 1.05 | MISS |",
        "| prepass and update / plain torch | 0.8 | 1.1 | pass |",
    ]


def test_bare_matmuls_are_those_of_a_gradient_that_is_the_logits(bench):
    """1500 tokens and columns are four tiles."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(1500, 8, generator=generator) for _ in range(2))
    (peer,) = (peer for peer in bench.PEERS if peer.only_matmuls)
    inputs = (hidden.requires_grad_(), weight.requires_grad_())
    logprob, entropy = peer.call(*inputs, torch.zeros(1500), None)
    assert logprob.shape == (1500,)
    assert entropy is None
    logprob.sum().backward()
    logits = hidden.detach().double() @ weight.detach().double().t()
    assert_near_in_norm(hidden.grad, logits @ weight.detach().double(), 1e-6)
    assert_near_in_norm(weight.grad, logits.t() @ hidden.detach().double(), 1e-6)
