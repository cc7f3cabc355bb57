import subprocess
import sys

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megatron_stare.config.run import LogConfig
from megatron_stare.errors import UserError
from megatron_stare.observe.history import read_metrics
from megatron_stare.observe.loggers import LogPosition, open_loggers

CONFIG = {
    "run": {"seed": 1},
    "stare": {"enabled": True, "target_entropy": 0.3},
    "train": {"steps": 5},
}
STEPS = [(1, {"reward/mean": 0.25, "entropy/mean": 0.5}), (2, {"reward/mean": 0.75})]


@pytest.fixture
def cut_off(tmp_path, monkeypatch):
    """A home without any W&B login, settings or cache, and a W&B server that nobody answers at."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)


LOG = LogConfig()


def loggers_in(run_dir, log=LOG, *, rank=0, position=None):
    """The loggers of a run that writes."""
    loggers = open_loggers(log, rank=rank)
    loggers.open_files(log, run_dir, CONFIG, position)
    return loggers


def log_steps(log, run_dir, **kwargs):
    run_dir.mkdir(exist_ok=True)
    with loggers_in(run_dir, log, **kwargs) as loggers:
        for step, metrics in STEPS:
            loggers.log(step, metrics)


def test_metrics_and_the_console_are_always_served(tmp_path, capsys):
    log_steps(LogConfig(), tmp_path)
    assert read_metrics(tmp_path)["reward/mean"].values.tolist() == [0.25, 0.75]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]
    out = capsys.readouterr().out
    assert "step 1/5  reward  0.250  entropy 0.500" in out


def test_reopening_a_run_continues_its_metrics(tmp_path):
    log_steps(LogConfig(), tmp_path)
    with loggers_in(tmp_path) as loggers:
        loggers.log(3, {"reward/mean": 1.0})
    assert read_metrics(tmp_path)["reward/mean"].steps.tolist() == [1, 2, 3]


def test_an_unknown_metric_is_recorded_nowhere(tmp_path):
    loggers = loggers_in(tmp_path)
    with pytest.raises(KeyError, match="reward/mena"):
        loggers.log(1, {"reward/mean": 0.5, "reward/mena": 0.5})
    loggers.close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_ranks_other_than_0_are_silent_and_still_check_names(tmp_path, capsys):
    log = LogConfig(tensorboard=True, wandb_project="stare", wandb_mode="offline")
    with loggers_in(tmp_path / "run", log, rank=1) as loggers:
        loggers.log(1, {"reward/mean": 0.5})
        loggers.message("hello")
        with pytest.raises(KeyError):
            loggers.log(1, {"reward/mena": 0.5})
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr() == ("", "")


def test_tensorboard_reads_the_events(tmp_path):
    log_steps(LogConfig(tensorboard=True), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    rewards = events.Scalars("reward/mean")
    assert [(event.step, event.value) for event in rewards] == [(1, 0.25), (2, 0.75)]
    (config,) = events.Tensors("config/text_summary")
    assert b"target_entropy: 0.3" in config.tensor_proto.string_val[0]


def test_tensorboard_shows_what_came_after_a_checkpoint_once(tmp_path):
    log = LogConfig(tensorboard=True)
    log_steps(log, tmp_path)
    position = LogPosition(step=1, metrics_bytes=0)
    with loggers_in(tmp_path, log, position=position) as loggers:
        loggers.log(2, {"reward/mean": 0.5})
        loggers.log(3, {"reward/mean": 1.0})
    rewards = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("reward/mean")
    assert [(event.step, event.value) for event in rewards] == [(1, 0.25), (2, 0.5), (3, 1.0)]


@pytest.mark.usefixtures("cut_off")
def test_wandb_offline_writes_a_run_that_can_be_synced_and_gone_on_with(tmp_path):
    run_dir, log = tmp_path / "stare-seed1", LogConfig(wandb_project="bands", wandb_mode="offline")
    run_dir.mkdir()
    with loggers_in(run_dir, log) as loggers:
        for step, metrics in STEPS:
            loggers.log(step, metrics)
        position = LogPosition(step=2, **loggers.state_dict())
    with loggers_in(run_dir, log, position=position) as loggers:
        loggers.log(3, {"reward/mean": 0.875})
        assert loggers.state_dict()["wandb_id"] == position.wandb_id
    wandb.teardown()  # W&B's own process has then written all.
    records = sorted((run_dir / "wandb").glob(f"offline-run-*/run-{position.wandb_id}.wandb"))
    assert len(records) == len(list((run_dir / "wandb").glob("offline-run-*"))) > 0
    content = b"".join(record.read_bytes() for record in records)
    texts = (b"bands", b"stare-seed1", b"target_entropy", b"reward/mean", b"0.75", b"0.875")
    for text in texts:
        assert text in content, text


@pytest.mark.slow
@pytest.mark.usefixtures("cut_off")
@pytest.mark.parametrize("moment", ["before the first step", "while the run waits for it"])
def test_a_run_goes_on_when_the_process_of_wandb_is_killed(tmp_path, moment):
    # In a process of its own: what W&B leaves behind then is to end with it.
    program = f"""
import os, signal, threading
from pathlib import Path
from megatron_stare.config.run import LogConfig
from megatron_stare.observe.loggers import open_loggers
from tests.children import children_named

def send(number):
    for pid in children_named("wandb"):
        os.kill(pid, number)

log = LogConfig(wandb_project="bands", wandb_mode="offline")
with open_loggers(log) as loggers:
    loggers.open_files(log, Path({str(tmp_path)!r}), {CONFIG!r})
    if {moment == "before the first step"}:
        send(signal.SIGKILL)
    else:  # It takes what is logged, and does not answer when the run is finished.
        send(signal.SIGSTOP)
        threading.Timer(1.0, send, [signal.SIGKILL]).start()
    for step in range(1, 4):
        loggers.log(step, {{"reward/mean": 0.5}})
    assert loggers.state_dict().keys() == {{"metrics_bytes", "wandb_id"}}
"""
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert ended.stdout.count("W&B is lost") == 1
    assert len(read_metrics(tmp_path)["reward/mean"].steps) == 3


@pytest.mark.usefixtures("cut_off")
def test_wandb_online_without_a_login_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"log.wandb_project='bands': .*log.wandb_mode=offline"):
        log_steps(LogConfig(wandb_project="bands"), tmp_path)


def test_what_is_not_configured_is_not_imported(tmp_path):
    program = f"""
import sys
from pathlib import Path
from megatron_stare.config.run import LogConfig
from megatron_stare.observe.loggers import open_loggers
loggers = open_loggers(LogConfig())
loggers.open_files(LogConfig(), Path({str(tmp_path)!r}), {{}})
loggers.close()
assert not {{"wandb", "tensorboard", "matplotlib"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(("left", "lacking"), [(None, 30), (b"", 30), (b"x" * 12, 18)])
def test_metrics_that_somebody_has_cut_or_taken_away_are_said(tmp_path, capsys, left, lacking):
    if left is not None:
        (tmp_path / "metrics.jsonl").write_bytes(left)
    position = LogPosition(step=1, metrics_bytes=30)
    loggers_in(tmp_path, position=position).close()
    assert f"{lacking} bytes of what it held at step 1 are gone" in capsys.readouterr().out
