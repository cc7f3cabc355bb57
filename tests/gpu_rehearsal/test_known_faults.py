"""Every fault that is known has a test that sees it."""

from __future__ import annotations

import ast

import pytest

from tests.gpu_rehearsal.known_faults import KNOWN_FAULTS
from tests.gpu_rehearsal.processes import REPO


@pytest.mark.parametrize("fault", KNOWN_FAULTS)
def test_it_has_one(fault):
    for test in KNOWN_FAULTS[fault]:
        path, _, name = test.partition("::")
        tree = ast.parse((REPO / path).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
