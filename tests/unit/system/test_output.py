"""A folder that cannot be made or written is one message, before anything is touched."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from megatron_stare.errors import UserError
from megatron_stare.system.output import check_folder, make_folder, writing


def in_the_way(folder: Path) -> dict[str, Path]:
    """Paths of folders that cannot be, by what is in their way."""
    (folder / "file").write_text("")
    (folder / "link").symlink_to(folder / "nothing")
    (folder / "loop").symlink_to(folder / "loop")
    return {
        "a file": folder / "file",
        "below a file": folder / "file" / "run",
        "far below a file": folder / "file" / "a" / "b",
        "a link to nothing": folder / "link",
        "below a link to nothing": folder / "link" / "run",
        "a loop of links": folder / "loop" / "run",
        "a NUL byte": folder / "a\0b",
        "half a surrogate pair": folder / "a\ud800",
        "a long name": folder / ("x" * 300),
        "a long path": folder.joinpath(*["x" * 100] * 50),
        "a device": Path("/dev/null"),
        "below a device": Path("/dev/null/run"),
    }


def test_what_is_in_the_way_is_named_before_and_when_it_is_made(tmp_path):
    for kind, path in in_the_way(tmp_path).items():
        before = sorted(tmp_path.rglob("*"))
        for attempt in (check_folder, make_folder):
            with pytest.raises(UserError, match=r"^run\.dir=.*cannot be written \(.+\); expected"):
                attempt(path, "run.dir")
        assert sorted(tmp_path.rglob("*")) == before, kind


def test_what_only_the_system_knows_is_found_when_it_is_made():
    check_folder(Path("/proc/run"), "run.dir")
    with pytest.raises(UserError, match=r"^--out=/proc/run: cannot be written"):
        make_folder(Path("/proc/run"), "--out")


def test_a_folder_is_made_with_those_above_it_and_they_are_told(tmp_path):
    folder = tmp_path / "a" / "b"
    check_folder(folder, "run.dir")
    assert not folder.parent.exists()
    assert make_folder(folder, "run.dir") == [folder, folder.parent]
    assert make_folder(folder, "run.dir") == []
    (tmp_path / "link").symlink_to(folder)
    assert make_folder(tmp_path / "link", "run.dir") == []


def test_a_long_path_is_shown_in_part(tmp_path):
    with pytest.raises(UserError) as error:
        check_folder(tmp_path.joinpath(*["x" * 100] * 50), "run.dir")
    assert len(str(error.value)) < 600


def test_what_the_system_refuses_is_said_of_the_path_and_other_errors_pass(tmp_path):
    with (
        pytest.raises(UserError, match=r"--out=page: cannot be written \(Is a directory\)"),
        writing(Path("page"), "--out"),
    ):
        tmp_path.write_text("")
    with pytest.raises(ZeroDivisionError), writing(Path("page"), "--out"):
        raise ZeroDivisionError


def test_a_file_there_that_the_system_names_is_told_too(tmp_path):
    path = tmp_path / "run"
    for there, said in ((path / "a/b", "a/b"), (tmp_path / "c", "c")):
        named = rf"run: cannot be written \({said}: File too large\)"
        with pytest.raises(UserError, match=named), writing(path, "run.dir"):
            raise OSError(errno.EFBIG, "File too large", str(there))
