"""The journal of a long job: what is done is not done again, and nothing else is taken for it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from megatron_stare.errors import UserError
from megatron_stare.weights.parts import JOURNAL_FILE, Journal
from tests.disks import full_disk

JOB = {"to": "megatron", "parts": 3}


def results_after(folder: Path, change: bytes) -> dict:
    """What a job finds that was stopped after two parts, with this behind its journal."""
    with closing(Journal(folder, JOB)) as journal:
        journal.add(0, {"size": 7})
        journal.add(1, None)
    with (folder / JOURNAL_FILE).open("ab") as file:
        file.write(change)
    with closing(Journal(folder, JOB)) as journal:
        return journal.results


HALVES = (b"", b"[2, {", b"\n", b"[" * 9000, b"\xff\xfe")


@pytest.mark.parametrize("half", HALVES, ids=lambda half: repr(half[:5]))
def test_what_was_done_stays_behind_half_a_line(tmp_path, half):
    assert results_after(tmp_path, half) == {0: {"size": 7}, 1: None}


@pytest.mark.parametrize("line", [b"7", b"[1]", b'["2", 1]', b"{}", b"null", b"[true, 1]"])
def test_a_journal_with_a_line_that_is_none_is_begun_anew(tmp_path, line):
    assert results_after(tmp_path, line + b"\n") == {}


def test_another_job_begins_anew_and_a_second_process_waits_for_none(tmp_path):
    with closing(Journal(tmp_path, JOB)) as journal:
        journal.add(0, 1)
        with pytest.raises(UserError, match="another process is writing it"):
            Journal(tmp_path, JOB)
    with closing(Journal(tmp_path, JOB | {"parts": 4})) as journal:
        assert journal.results == {}


def test_a_full_disk_costs_no_part_that_is_done(tmp_path):
    with closing(Journal(tmp_path, JOB)) as journal:
        journal.add(0, "a" * 50)
    before = (tmp_path / JOURNAL_FILE).read_bytes()
    with full_disk(len(before) + 3), closing(Journal(tmp_path, JOB)) as journal:
        assert journal.results == {0: "a" * 50}
        with pytest.raises(OSError, match="File too large"):
            journal.add(1, "b")
    assert (tmp_path / JOURNAL_FILE).read_bytes() == before
