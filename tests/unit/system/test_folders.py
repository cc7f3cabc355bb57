"""A file is the old one or the new one, whole."""

from __future__ import annotations

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
    with full_disk(4), pytest.raises(OSError, match="File too large"):
        write_whole(path, "too: long\n")
    assert path.read_text(encoding="utf-8") == "é: 1\n"
    assert list(tmp_path.iterdir()) == [path]
