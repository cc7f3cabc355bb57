"""Trackers of a user: what they are given, and that none of them can cost a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.errors import Error

from megatron_stare.config.run import LogConfig
from megatron_stare.errors import UserError
from megatron_stare.observe.history import read_metrics
from megatron_stare.observe.loggers import LogPosition, open_loggers

CONFIG = {"run": {"seed": 1}, "train": {"steps": 5}}
HERE = "tests.unit.observe.test_trackers"


class Recorder:
    """Remembers the last one that was made."""

    made: Recorder

    def __init__(self, run_dir: Path, config: dict[str, Any], first_step: int | None) -> None:
        self.given = run_dir, config, first_step
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.is_closed = False
        Recorder.made = self

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.logged.append((step, metrics))
        metrics["reward/mean"] = -1.0  # What it is given is its own.

    def close(self) -> None:
        self.is_closed = True


class Failing(Recorder):
    """At its second step."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        super().log(step, metrics)
        if step == 2:
            raise ConnectionError("the server is away")


class Unmakeable:
    def __init__(self) -> None:
        pass


def run(run_dir: Path, *names: str, position: LogPosition | None = None) -> None:
    log = LogConfig(trackers=tuple(f"{HERE}:{name}" for name in names))
    with open_loggers(log) as loggers:
        loggers.open_files(log, run_dir, CONFIG, position)
        for step in (1, 2, 3):
            loggers.log(step, {"reward/mean": step / 4})


def test_a_tracker_gets_the_run_and_every_step(tmp_path):
    run(tmp_path, "Recorder")
    tracker = Recorder.made
    assert tracker.given == (tmp_path, CONFIG, None)
    assert [step for step, _ in tracker.logged] == [1, 2, 3]
    assert tracker.is_closed
    assert read_metrics(tmp_path)["reward/mean"].values.tolist() == [0.25, 0.5, 0.75]


def test_of_a_run_that_goes_on_it_knows_the_step(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    run(tmp_path, "Recorder", position=LogPosition(7, 0))
    assert Recorder.made.given[2] == 8


def test_one_that_fails_is_left_out_and_costs_nothing(tmp_path, capsys):
    run(tmp_path, "Failing")
    assert [step for step, _ in Recorder.made.logged] == [1, 2]
    assert not Recorder.made.is_closed
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("Failing is lost (ConnectionError('the server is away'))") == 1
    assert read_metrics(tmp_path)["reward/mean"].steps.tolist() == [1, 2, 3]


def test_one_that_cannot_be_imported_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=rf"log.trackers: cannot import {HERE}:Missing: Attribute"):
        run(tmp_path, "Missing")
    assert not list(tmp_path.iterdir())


def test_one_that_cannot_be_made_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=rf"log.trackers: {HERE}:Unmakeable cannot be made: Type"):
        run(tmp_path, "Unmakeable")
    assert not list(tmp_path.iterdir())


def test_other_ranks_have_none(tmp_path):
    log = LogConfig(trackers=(f"{HERE}:Missing",))
    with open_loggers(log, rank=1) as loggers:
        loggers.open_files(log, tmp_path, CONFIG)
    assert not list(tmp_path.iterdir())


def test_wandb_is_told_what_the_config_says(tmp_path, monkeypatch):
    told: dict[str, Any] = {}

    def init(**arguments: Any) -> Any:
        told.update(arguments)
        raise Error("enough")

    monkeypatch.setattr(wandb, "init", init)
    log = LogConfig(
        wandb_project="bands",
        wandb_entity="lab",
        wandb_group="seeds",
        wandb_tags=("a", "b"),
        wandb_notes="why",
    )
    with pytest.raises(UserError, match="enough"), open_loggers(log) as loggers:
        loggers.open_files(log, tmp_path, CONFIG)
    assert (told["project"], told["entity"], told["group"]) == ("bands", "lab", "seeds")
    assert (told["tags"], told["notes"], told["name"]) == (["a", "b"], "why", tmp_path.name)
