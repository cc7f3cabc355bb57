"""A log on a disk that fails: whole pieces or nothing, said once, caught up with later."""

from __future__ import annotations

import json
import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megatron_stare.observe.history import JsonlLogger, read_metrics
from megatron_stare.observe.tensorboard import TensorBoardLogger
from megatron_stare.system.appended import AppendedFile
from tests.disks import full_disk, small_disk


@pytest.fixture
def said():
    return []


def test_a_piece_that_does_not_fit_is_not_there_and_comes_before_the_next(tmp_path, said):
    path = tmp_path / "log"
    log = AppendedFile(path, said.append)
    log.append(b"one\n")
    with full_disk(6):  # The system takes two bytes of the second piece.
        log.append(b"two\n")
        assert path.read_bytes() == b"one\n"
        assert log.size == 4
        log.append(b"three\n")
        assert len(said) == 1
        assert "cannot be written ([Errno 27] File too large); the run goes on" in said[0]
    log.append(b"four\n")
    assert path.read_bytes() == b"one\ntwo\nthree\nfour\n"
    with full_disk(6):
        log.append(b"five\n")
    assert len(said) == 2, "another time"
    log.close()
    assert path.read_bytes().endswith(b"four\nfive\n")


def test_a_folder_that_is_gone_is_said_and_one_that_comes_back_is_written_to(tmp_path, said):
    log = AppendedFile(tmp_path / "run/log", said.append)
    log.append(b"one\n")
    assert len(said) == 1
    (tmp_path / "run").mkdir()
    log.append(b"two\n")
    shutil.rmtree(tmp_path / "run")
    log.append(b"three\n")
    assert ["No such file" in line for line in said] == [True, True]
    assert log.size == 0


def test_metrics_have_every_step_once_the_disk_has_room(tmp_path, said):
    logger = JsonlLogger(tmp_path, said.append)
    for step in range(1, 9):
        with full_disk(150 if 3 <= step < 7 else 10**6):
            logger.log(step, {"reward/mean": step / 10})
            read_metrics(tmp_path)
    assert read_metrics(tmp_path)["reward/mean"].steps.tolist() == [*range(1, 9)]
    assert len(said) == 1
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [*range(1, 9)]


def test_tensorboard_reads_every_event_of_such_a_run(tmp_path, said):
    logger = TensorBoardLogger(tmp_path, {"run": {"seed": 1}}, None, said.append)
    for step in range(1, 9):
        with full_disk(600 if 3 <= step < 7 else 10**6):
            logger.log(step, {"reward/mean": 0.5, "reward/accuracy": 0.25})
    logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name in ("reward/mean", "reward/accuracy"):
        assert [event.step for event in events.Scalars(name)] == [*range(1, 9)]
    assert len(said) == 1


def test_on_a_disk_that_is_really_full_no_line_is_torn(tmp_path, said):
    with small_disk(tmp_path / "small", "size=64k"):
        logger = JsonlLogger(tmp_path / "small", said.append)
        for step in range(1, 3000):
            logger.log(step, {"reward/mean": 0.5})
        content = (tmp_path / "small/metrics.jsonl").read_bytes()
        assert content.endswith(b"\n")
        assert len(read_metrics(tmp_path / "small")["reward/mean"].steps) < 2999
    assert len(said) == 1
