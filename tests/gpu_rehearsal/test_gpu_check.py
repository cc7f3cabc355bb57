"""`tools/gpu_check.py` where there is no GPU: every check comes to an end, and to a line."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import pytest

from tests.gpu_rehearsal.processes import REPO
from tests.worlds import FORKSERVER

sys.path.insert(0, str(REPO / "tools"))
import gpu_check

SMALL = (
    *("--tokens", "256", "--vocab", "1024", "--hidden", "128"),
    *("--python", "nowhere/python", "--patience", "5"),
)


def verdicts(report: Path) -> dict[str, str]:
    """Of each check, from the report's first table."""
    return dict(re.findall(r"\(`(\w+)`\) \| (\w+) \|", report.read_text()))


def test_all_checks_run_and_the_one_that_fails_is_reported(fake_gpu_te, tmp_path):
    """Triton's kernels need a GPU, and a server its environment; all else passes."""
    report = tmp_path / "report.md"
    (rank,) = fake_gpu_te.run(
        "tests.gpu_rehearsal.programs:gpu_check", ["--out", str(report), *SMALL]
    )
    text = report.read_text()
    passed = dict.fromkeys(("versions", "head", "step", "attention", "offload"), "passed")
    assert verdicts(report) == passed | {"kernels": "FAILED", "sync": "skipped"}, text
    assert rank["code"] == 1
    assert "libcuda" in text
    assert "no servers' environment: nowhere/python is not there" in text
    assert "| bare matmuls |" in text
    assert "`fused_attention` for thd" in text


def test_without_a_failure_the_exit_code_is_zero(fake_gpu_te, tmp_path):
    report = tmp_path / "report.md"
    (rank,) = fake_gpu_te.run(
        "tests.gpu_rehearsal.programs:gpu_check",
        ["--out", str(report), "--only", "versions", "attention", "--patience", "5"],
    )
    assert (rank["code"], verdicts(report)) == (0, {"versions": "passed", "attention": "passed"})
    assert "`fused_attention` for thd" in report.read_text()


def test_layers_that_are_not_transformer_engines_fail(fake_gpu, tmp_path):
    report = tmp_path / "report.md"
    (rank,) = fake_gpu.run(
        "tests.gpu_rehearsal.programs:gpu_check",
        ["--out", str(report), "--only", "step", "--patience", "5"],
    )
    assert (rank["code"], verdicts(report)) == (1, {"step": "FAILED"})
    assert "Transformer Engine is not used" in report.read_text()


def _hangs(options: gpu_check.Options) -> str:
    time.sleep(600)
    return ""


def _dies(options: gpu_check.Options) -> str:
    os._exit(11)


def _raises(options: gpu_check.Options) -> str:
    print("the last words")
    raise ValueError("a wrong number")


def _passes(options: gpu_check.Options) -> str:
    return "| a | table |"


@pytest.mark.parametrize("failing", [_hangs, _dies, _raises])
def test_a_check_that_fails_in_any_way_leaves_the_others_theirs(failing, tmp_path):
    checks = {
        "first": gpu_check.Check("The first", failing, limit_s=1.0 if failing is _hangs else 180.0),
        "second": gpu_check.Check("The second", _passes, limit_s=180.0),
    }
    report = tmp_path / "report.md"
    # Not forked from here: what other tests left in this process may end such a child.
    method = FORKSERVER.get_start_method()
    assert gpu_check.main(["--out", str(report)], checks, start_method=method) == 1
    assert verdicts(report) == {"first": "FAILED", "second": "passed"}, report.read_text()
    reason = {
        _hangs: "no end within 1 s",
        _dies: "its process died",
        _raises: "ValueError: a wrong number\n\nIts last lines:\n\n```\nthe last words",
    }
    assert reason[failing] in report.read_text()
    assert "| a | table |" in report.read_text()
