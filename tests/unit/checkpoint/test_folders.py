"""A checkpoint is complete or does not exist, and damage to it is seen."""

from __future__ import annotations

import shutil

import pytest

from megatron_stare.checkpoint.folders import (
    LATEST,
    MANIFEST,
    begin,
    commit,
    find_damage,
    marks_of,
    open_checkpoint,
    prune,
    records_of,
    steps_of,
)


def make(root, step, content=b"weights"):
    folder = begin(root, step)
    for name in ("a.distcp", "b.distcp"):
        (folder / name).write_bytes(content)
    return commit(folder, {"step": step}, records_of(list(folder.iterdir())))


def damage_of(checkpoint, *, checksums=True):
    return find_damage(checkpoint, checkpoint.files, checksums=checksums)


def test_a_committed_checkpoint_is_whole_and_the_latest(tmp_path):
    made = make(tmp_path, 10)
    assert open_checkpoint(tmp_path, 10) == made
    assert damage_of(made) is None
    assert (tmp_path / LATEST).read_text() == "step_000010\n"
    assert steps_of(tmp_path) == [10]


def test_what_was_not_committed_does_not_exist_and_is_removed_by_the_next(tmp_path):
    (begin(tmp_path, 10) / "a.distcp").write_bytes(b"half")
    (tmp_path / f"{LATEST}.unfinished").write_text("step_0000")
    assert steps_of(tmp_path) == []
    make(tmp_path, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LATEST, "step_000020"]


def test_the_newest_folder_counts_whatever_latest_says(tmp_path):
    make(tmp_path, 10)
    make(tmp_path, 20)
    (tmp_path / LATEST).write_text("step_000099\n")
    assert steps_of(tmp_path) == [20, 10]


def test_a_step_that_is_made_once_more_replaces_its_checkpoint(tmp_path):
    make(tmp_path, 10, b"before")
    made = make(tmp_path, 10, b"afterwards")
    assert damage_of(made) is None
    assert (made.folder / "a.distcp").read_bytes() == b"afterwards"


@pytest.mark.parametrize(
    ("content", "said", "needs_checksums"),
    [
        (None, "a.distcp: missing", False),
        (b"weigh", "a.distcp: 5 bytes, the manifest has 7", False),
        (b"weightr", "a.distcp: its checksum is not that of the manifest", True),
    ],
    ids=["missing", "truncated", "a flipped bit"],
)
def test_damage_is_named(tmp_path, content, said, needs_checksums):
    made = make(tmp_path, 10)
    path = made.folder / "a.distcp"
    path.unlink() if content is None else path.write_bytes(content)
    assert (damage_of(made) or "").endswith(said)
    assert (damage_of(made, checksums=False) is None) == needs_checksums


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"step": 9, "files": {"a": {}}}'])
def test_a_folder_without_its_manifest_is_no_checkpoint(tmp_path, content):
    path = make(tmp_path, 10).folder / MANIFEST
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match="manifest"):
        open_checkpoint(tmp_path, 10)


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "kept"),
    [(1, 0, [50]), (2, 0, [50, 40]), (2, 30, [50, 40, 30]), (9, 0, [50, 40, 30, 20, 10])],
)
def test_the_last_are_kept_and_every_so_many_steps(tmp_path, keep_last, keep_every, kept):
    for step in (10, 20, 30, 40, 50):
        make(tmp_path, step)
    prune(tmp_path, keep_last=keep_last, keep_every=keep_every)
    assert steps_of(tmp_path) == kept
    assert len(list(tmp_path.iterdir())) == len(kept) + 1


def odd_thing(path, kind):
    """A file, a folder, a link to a folder or to nothing."""
    if kind == "file":
        path.write_text("somebody's")
    elif kind == "folder":
        (path / "within").mkdir(parents=True)
    else:
        path.symlink_to(path.parent if kind == "link" else "nothing")


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
def test_what_stands_in_a_checkpoints_way_is_replaced_whatever_it_is(tmp_path, kind):
    make(tmp_path, 10)
    for name in ("step_000030.unfinished", "step_x.unfinished", "step_000020", "step_000008"):
        odd_thing(tmp_path / name, kind)
    make(tmp_path, 20)
    prune(tmp_path, keep_last=1, keep_every=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LATEST, "step_000020"]
    assert damage_of(open_checkpoint(tmp_path, 20)) is None


@pytest.mark.parametrize("name", ["step_2", "step_0000002", "step_" + "\u0662" * 6])
def test_a_copy_under_another_name_is_no_checkpoint_and_is_left_alone(tmp_path, name):
    shutil.copytree(make(tmp_path, 1).folder, tmp_path / name)
    make(tmp_path, 3)
    assert steps_of(tmp_path) == [3, 1]
    prune(tmp_path, keep_last=1, keep_every=0)
    assert (tmp_path / name / MANIFEST).exists()


def test_a_checkpoint_that_came_meanwhile_changes_the_marks(tmp_path):
    assert marks_of(tmp_path / "none") == {}
    make(tmp_path, 10)
    before = marks_of(tmp_path)
    assert before == marks_of(tmp_path)
    make(tmp_path, 10)
    assert before != marks_of(tmp_path)
    (tmp_path / "step_000020").mkdir()
    assert marks_of(tmp_path)[20] == 0
