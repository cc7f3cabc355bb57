import json
import math

import numpy as np
import pytest

from megatron_stare.errors import UserError
from megatron_stare.observe.history import JsonlLogger, cut_back, read_metrics
from tests.disks import full_disk


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def log(folder, *records):
    logger = JsonlLogger(folder, print)
    for step, metrics in records:
        logger.log(step, metrics)
    logger.close()


def test_what_is_logged_reads_back(tmp_path):
    log(tmp_path, (1, {"reward/mean": 0.5, "optim/lr": 1e-6}), (2, {"reward/mean": 0.25}))
    history = read_metrics(tmp_path)
    assert history["reward/mean"].steps.tolist() == [1, 2]
    assert history["reward/mean"].values.tolist() == [0.5, 0.25]
    assert history["optim/lr"].steps.tolist() == [1]
    assert set(history) == {"reward/mean", "optim/lr"}


def test_a_line_is_a_flat_object_with_step_and_time_that_any_json_reader_takes(tmp_path, path):
    log(tmp_path, (7, {"entropy/mean": 0.3, "optim/grad_norm": math.inf, "loss/total": math.nan}))

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads(path.read_text(), parse_constant=refuse)
    assert record.pop("unix_time_s") > 1.7e9
    assert record == {
        "step": 7,
        "entropy/mean": 0.3,
        "optim/grad_norm": None,
        "loss/total": None,
    }
    assert math.isnan(read_metrics(tmp_path)["loss/total"].values[0])


def test_each_line_is_on_disk_before_the_next_step(tmp_path):
    logger = JsonlLogger(tmp_path, print)
    for step in (1, 2):
        logger.log(step, {"reward/mean": float(step)})
        assert read_metrics(tmp_path)["reward/mean"].values[-1] == step
    logger.close()


def test_parts_of_a_step_are_one_step_and_the_last_value_counts(tmp_path):
    log(tmp_path, (1, {"reward/mean": 0.1}), (2, {"reward/mean": 0.2}))
    log(tmp_path, (2, {"reward/mean": 0.3}), (2, {"eval/avg_at_k": 0.9}), (3, {"reward/mean": 0.4}))
    history = read_metrics(tmp_path)
    assert history["reward/mean"].steps.tolist() == [1, 2, 3]
    assert history["reward/mean"].values.tolist() == [0.1, 0.3, 0.4]
    assert history["eval/avg_at_k"].steps.tolist() == [2]


@pytest.mark.parametrize("length", [1, 20, 45])
def test_a_run_killed_in_the_middle_of_a_line_loses_that_line_only(tmp_path, path, length):
    log(tmp_path, (1, {"reward/mean": 0.1}), (2, {"reward/mean": 0.2}))
    first, second = path.read_text().splitlines(keepends=True)
    path.write_text(first + second[:length])
    assert read_metrics(tmp_path)["reward/mean"].values.tolist() == [0.1]

    log(tmp_path, (2, {"reward/mean": 0.3}))
    np.testing.assert_array_equal(read_metrics(tmp_path)["reward/mean"].values, [0.1, 0.3])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken\n", r"metrics.jsonl:2: not JSON"),
        ("[1, 2]\n", r"metrics.jsonl:2: expected a JSON object with an integer 'step'"),
        ('{"reward/mean": 1}\n', r"metrics.jsonl:2: expected a JSON object with an integer 'step'"),
    ],
)
def test_a_broken_line_before_the_last_is_named(tmp_path, path, line, message):
    path.write_text('{"step": 1, "reward/mean": 1}\n' + line + '{"step": 3}\n')
    with pytest.raises(UserError, match=message):
        read_metrics(tmp_path)


def test_a_folder_without_metrics_is_refused(tmp_path, path):
    with pytest.raises(UserError, match=r"metrics.jsonl: cannot read .*No such file"):
        read_metrics(tmp_path)
    path.write_text("")
    with pytest.raises(UserError, match="holds no metrics"):
        read_metrics(tmp_path)


def test_a_run_that_goes_on_has_every_step_once_and_what_was_cut_is_kept(tmp_path, path):
    log(tmp_path, (1, {"reward/mean": 0.1}), (2, {"reward/mean": 0.2}))
    logger = JsonlLogger(tmp_path, print)
    position = logger.state_dict()["metrics_bytes"]
    logger.log(3, {"reward/mean": 0.3})
    logger.close()
    with path.open("a") as file:
        file.write('{"step": 4, "rew')
    with full_disk(10), pytest.raises(OSError, match="File too large"):
        cut_back(tmp_path, position)
    assert (tmp_path / "metrics.cut.jsonl").read_text() == ""
    cut_back(tmp_path, position)
    log(tmp_path, (3, {"reward/mean": 0.4}))
    assert read_metrics(tmp_path)["reward/mean"].values.tolist() == [0.1, 0.2, 0.4]
    assert len(path.read_text().splitlines()) == 3
    (cut,) = (tmp_path / "metrics.cut.jsonl").read_text().splitlines()
    assert json.loads(cut)["reward/mean"] == 0.3
