"""A file is the old one or the new one, whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from megatron_stare.system.folders import replacing_file, write_whole
from tests.disks import full_disk


@pytest.mark.parametrize("durably", [False, True])
def test_a_file_takes_its_place_when_it_is_whole(tmp_path, durably):
    path = tmp_path / "latest"
    path.write_text("old")

    with replacing_file(path, durably=durably) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"

    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "latest"
    path.write_text("old")

    def fail() -> None:
        with replacing_file(path) as unfinished:
            unfinished.write_text("half")
            raise error

    with pytest.raises(error):
        fail()

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_text_that_does_not_fit_leaves_the_one_before(tmp_path):
    path = tmp_path / "config.yaml"
    write_whole(path, "é: 1\n")
    with full_disk(4), pytest.raises(OSError, match=r"File too large: '.*/config\.yaml'"):
        write_whole(path, "too: long\n")
    assert path.read_text(encoding="utf-8") == "é: 1\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_with_no_room_for_another_name_is_told_by_the_files_own(tmp_path):
    with pytest.raises(OSError, match=r"No such file or directory: '.*/nowhere/config\.yaml'"):
        write_whole(tmp_path / "nowhere/config.yaml", "a: 1\n")


def test_a_link_stays_one_and_leads_to_what_is_new(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("old", "none"):
        link = tmp_path / f"{name}.link"
        link.symlink_to(Path("folder") / name)
        write_whole(link, "new")
        assert link.is_symlink()
        assert (tmp_path / "folder" / name).read_text() == "new"


@pytest.mark.parametrize("is_link", [False, True])
def test_a_pipe_or_a_device_is_never_replaced(tmp_path, is_link):
    """As root, /dev/stdout would be gone for everybody."""
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "pipe"
    if is_link:
        path = tmp_path / "link"
        path.symlink_to("pipe")
    with pytest.raises(OSError, match="a pipe or a device"):
        write_whole(path, "text")
    assert (tmp_path / "pipe").is_fifo()
    assert path.is_symlink() == is_link
