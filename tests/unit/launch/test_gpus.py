"""A machine's GPUs: found, left alone when hidden, and never passed over in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megatron_stare.errors import UserError
from megatron_stare.launch.gpus import count_gpus
from megatron_stare.launch.topology import read_topology

OLD = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 05:46:02 UTC 2025\n"


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """The root of one with two GPUs and a driver that torch's CUDA does not take."""
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    version = tmp_path / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.write_text(OLD)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    return tmp_path


def test_a_driver_that_is_too_old_is_named(machine):
    with pytest.raises(UserError, match=r"/dev/nvidia0 is there.*570\.86\.15.*CUDA 13\.0.*580"):
        count_gpus({}, machine)


def test_a_driver_that_is_not_loaded_is_said(machine):
    (machine / "proc/driver/nvidia/version").unlink()
    with pytest.raises(UserError, match="the driver is not loaded"):
        count_gpus({}, machine)


@pytest.mark.parametrize("visible", ["0", "0,1", " 1", "GPU-8f2c", "MIG-11aa"])
def test_gpus_that_are_asked_for_must_answer(machine, visible):
    with pytest.raises(UserError, match="CUDA does not answer"):
        count_gpus({"CUDA_VISIBLE_DEVICES": visible}, machine)


@pytest.mark.parametrize("visible", ["", "-1", "none", "NoDevFiles"])
def test_who_hides_the_gpus_gets_the_cpu(machine, visible):
    assert count_gpus({"CUDA_VISIBLE_DEVICES": visible}, machine) == 0


def test_a_machine_without_gpus_is_one_of_cpus(machine):
    for device in (machine / "dev").glob("nvidia[01]"):
        device.unlink()
    assert count_gpus({}, machine) == 0


def test_a_torch_without_cuda_computes_on_the_cpu(machine, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert count_gpus({}, machine) == 0


def test_gpus_that_answer_are_counted_and_used(machine, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert count_gpus({}, machine) == 2
    assert read_topology({"RANK": "5", "LOCAL_RANK": "1"}).device == torch.device("cuda", 1)
