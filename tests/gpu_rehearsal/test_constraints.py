"""What is installed with `--no-deps` on GPUs is what its packages ask for, and nothing is missing.

Resolved with their dependencies by uv, which installs nothing; skipped where it reaches no index.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.gpu_rehearsal.conftest import TE_PYTHON
from tests.gpu_rehearsal.processes import REPO


def pins(*files: Path) -> dict[str, str]:
    """Versions by name."""
    lines = [line for file in files for line in file.read_text().splitlines()]
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def resolved(python: Path, files: Iterable[Path], *options: str) -> subprocess.CompletedProcess:
    """A dry run of an installation with dependencies, into the environment of this Python."""
    requirements = [argument for file in files for argument in ("-r", str(file))]
    uv = [shutil.which("uv")] if shutil.which("uv") else [sys.executable, "-m", "uv"]
    command = [*uv, "pip", "install", "--dry-run", "--python", str(python), *requirements, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named uv" in done.stderr:
        pytest.skip("no uv")
    if done.returncode and re.search("Failed to fetch|connect|Request failed", done.stderr):
        pytest.skip(f"uv reaches no index: {done.stderr.strip().splitlines()[-1]}")
    return done


def added(done: subprocess.CompletedProcess) -> dict[str, str]:
    """What would be installed."""
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^ \+ ([\w.-]+)==(\S+)$", done.stderr, re.MULTILINE))


@pytest.fixture
def empty(tmp_path) -> Path:
    """The Python of an environment without packages."""
    done = subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "empty")])
    assert done.returncode == 0
    return tmp_path / "empty/bin/python"


def test_trainers_on_gpus():
    """With torch there: the extension that is built against it asks for it."""
    if not TE_PYTHON.exists():
        pytest.skip("no .venv-te: `make setup-te` was not run, or failed")
    files = [REPO / "constraints.txt", REPO / "constraints-gpu.txt"]
    more = added(resolved(TE_PYTHON, files, "--no-build-isolation"))
    assert "transformer-engine-torch" in more
    assert more.items() <= pins(*files).items()


def test_servers_on_gpus(empty):
    files = [REPO / "constraints-sglang-gpu.txt"]
    assert added(resolved(empty, files)) == pins(*files)


def test_pins_that_contradict_each_other_are_noticed(empty, tmp_path):
    """Else the two above would prove nothing."""
    contradiction = tmp_path / "constraints.txt"
    contradiction.write_text(f"torch=={pins(REPO / 'constraints.txt')['torch']}\ntriton==3.0.0\n")
    assert "No solution found" in resolved(empty, [contradiction]).stderr


def test_the_rehearsal_has_the_versions_of_gpus():
    assert pins(REPO / "constraints-te.txt").items() <= pins(REPO / "constraints-gpu.txt").items()
