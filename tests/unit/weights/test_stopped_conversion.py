"""A conversion that is stopped, killed or out of room goes on, and never looks complete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from megatron_stare.errors import UserError
from megatron_stare.weights.compare import compare_tensors, open_model
from megatron_stare.weights.conversion import run_conversion
from megatron_stare.weights.hf_to_megatron import HfToMegatron
from megatron_stare.weights.megatron_to_hf import MegatronToHf
from megatron_stare.weights.parts import JOURNAL_FILE
from tests.disks import full_disk
from tests.models import make_hf_folder
from tests.unit.weights.conversions import to_hf, to_megatron
from tests.worlds import FORKSERVER


class Stop(Exception):
    """In place of whatever stops a conversion."""


def stop_after(parameters: int):
    seen = 0

    def on_done(count: int) -> None:
        nonlocal seen
        seen += count
        if seen >= parameters:
            raise Stop

    return on_done


@pytest.mark.parametrize("direction", ["to megatron", "to hf"])
def test_a_stopped_conversion_goes_on(hf, checkpoint, tmp_path, direction):
    source, convert = (hf, to_megatron) if direction == "to megatron" else (checkpoint, to_hf)
    convert(source, tmp_path / "whole")
    with pytest.raises(Stop):
        convert(source, tmp_path / "out", threads=1, on_done=stop_after(15))
    assert not (tmp_path / "out").exists()
    done: list[int] = []
    convert(source, tmp_path / "out", on_done=done.append)
    assert done[0] >= 15
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("direction", ["there", "back"])
def test_a_disk_that_fills_up_is_one_error_and_the_conversion_goes_on(
    hf, checkpoint, tmp_path, direction
):
    def conversion():
        return HfToMegatron(hf) if direction == "there" else MegatronToHf(checkpoint)

    destination = tmp_path / "made"
    said = r"DST=.*\.made\.partial: cannot be written \(File too large\)"
    with full_disk(20_000), pytest.raises(UserError, match=said):
        run_conversion(conversion(), destination, part_bytes=1 << 14)
    assert not destination.exists()
    run_conversion(conversion(), destination, part_bytes=1 << 14)
    source = hf if direction == "there" else checkpoint
    assert all(d.is_identical for d in compare_tensors(open_model(source), open_model(destination)))


def test_a_line_cut_short_costs_a_part(hf, tmp_path):
    with pytest.raises(Stop):
        to_megatron(hf, tmp_path / "out", threads=1, on_done=stop_after(15))
    journal = tmp_path / ".out.partial" / JOURNAL_FILE
    journal.write_bytes(journal.read_bytes()[:-5])
    to_megatron(hf, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(to_megatron(hf, tmp_path / "whole"))


def test_half_a_conversion_of_other_weights_is_thrown_away(hf, tmp_path):
    with pytest.raises(Stop):
        to_megatron(hf, tmp_path / "out", threads=1, on_done=stop_after(15))
    other = make_hf_folder(tmp_path / "other", "qwen2", seed=1)
    done: list[int] = []
    to_megatron(other, tmp_path / "out", on_done=done.append)
    assert done[0] == 0
    assert contents(tmp_path / "out") == contents(to_megatron(other, tmp_path / "whole"))


def convert_and_die(hf: Path, out: Path, after: int) -> None:
    def die(count: int) -> None:
        nonlocal after
        after -= count
        if after <= 0:
            os._exit(9)

    to_megatron(hf, out, on_done=die)


def test_a_killed_process_leaves_nothing_that_looks_complete(hf, tmp_path):
    process = FORKSERVER.Process(target=convert_and_die, args=(hf, tmp_path / "out", 10))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not (tmp_path / "out").exists()
    to_megatron(hf, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(to_megatron(hf, tmp_path / "whole"))


def test_two_conversions_do_not_share_a_destination(hf, tmp_path):
    def meanwhile(count: int) -> None:
        with pytest.raises(UserError, match="another process is writing it"):
            to_megatron(hf, tmp_path / "out")

    to_megatron(hf, tmp_path / "out", on_done=meanwhile)
