"""A verifier's code is its own files, whoever imports them; a change of any is noticed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from megatron_stare.rewards.pool import VerifierPool
from megatron_stare.rewards.worker import Setup

FILES = {
    "judge.py": "import units\nfrom shapes import area\ndef right(response, answer): return 1.0\n",
    "units.py": "METRE = 1\n",
    "beside.py": "LATE = 1\n",
    "shapes/__init__.py": "",
    "shapes/area.py": "SQUARE = 1\n",
    "shapes/deep/__init__.py": "",
    "shapes/deep/volume.py": "CUBE = 1\n",
    "spaces/far/metric.py": "def right(response, answer): return 1.0\n",
    "spaces/far/helper.py": "",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def code_of(function: str, **options) -> str | None:
    setup = Setup(function, None, memory_bytes=2**28, import_path=tuple(sys.path))
    with VerifierPool(setup, num_workers=1, deadline_s=5.0, **options) as pool:
        pool.start()
        return pool.code


@pytest.mark.parametrize(
    ("function", "names"),
    [
        ("judge:right", ["judge.py", "units.py", "beside.py", "shapes/deep/volume.py"]),
        ("spaces.far.metric:right", ["spaces/far/metric.py", "spaces/far/helper.py"]),
    ],
)
def test_a_change_of_any_of_its_files_is_another_verifier(folder: Path, function, names):
    before = code_of(function)
    assert code_of(function) == before
    (folder / "notes.txt").write_text("no code")
    (folder / "spaces/other.txt").write_text("no code")
    assert code_of(function) == before
    for name in names:
        (folder / name).write_text(FILES[name] + "# mended\n")
        after = code_of(function)
        assert after != before
        before = after


def test_the_current_folder_is_first_however_the_trainer_finds_its_modules(folder, monkeypatch):
    elsewhere = folder / "spaces"
    (elsewhere / "judge.py").write_text("def right(response, answer): return 0.0\n")
    before = code_of("judge:right")
    monkeypatch.setattr(sys, "path", [str(elsewhere), *sys.path])
    assert code_of("judge:right") == before
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert code_of("judge:right") == before


def test_code_that_changes_under_a_pool_is_said_once(folder: Path):
    said: list[str] = []
    setup = Setup("judge:right", None, memory_bytes=2**28, import_path=tuple(sys.path))
    with VerifierPool(setup, num_workers=2, deadline_s=5.0, report=said.append) as pool:
        pool.start()
        (folder / "judge.py").write_text(FILES["judge.py"] + "# mended\n")
        pool.run([("", "")] * 8)
    (text,) = said
    assert text.startswith("reward.kind: judge:right was changed")
