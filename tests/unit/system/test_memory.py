"""Memory that nobody uses: the kernel's word, or what a job's own limit leaves."""

import pytest

from megatron_stare.system.memory import available_bytes


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [("max", "5", 3000 * 1024), ("4096", "96", 4000), ("1", "2", 0), ("", "", 3000 * 1024)],
)
def test_available_memory_is_the_machines_or_what_a_jobs_limit_leaves(
    limit, used, expected, tmp_path
):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    3000 kB\n")
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(used + "\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) == expected


def test_where_nothing_says_how_much_memory_is_free_there_is_none(tmp_path):
    assert available_bytes(tmp_path / "meminfo", tmp_path) == 0


def test_this_machine_has_some():
    assert available_bytes() > 2**20
