"""What transports ask of CUDA and NCCL, seen without either."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import torch
from torch import Tensor

from megatron_stare.engines.sglang.sync.process_group import ServerGroup, nccl_options
from megatron_stare.system.timeouts import COLLECTIVE_TIMEOUT


def test_a_slow_server_is_not_the_end_of_the_trainer():
    """NCCL ends the process whose broadcast is not over in time, whoever is to blame."""
    assert nccl_options()._timeout == COLLECTIVE_TIMEOUT >= timedelta(hours=1)


def test_a_group_with_a_server_that_died_can_be_aborted_before_its_ranks_have_met():
    assert nccl_options().config.blocking == 0


def test_groups_with_many_servers_leave_room_on_the_gpu():
    assert 0 < nccl_options().config.max_ctas <= 8


class OnGpu(Tensor):
    """Says that it is on a GPU."""

    is_cuda = True  # pyright: ignore[reportAssignmentType]


class Recorder:
    """A backend and its streams, which write down what is asked of them."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def broadcast(self, tensors: list[Tensor], options) -> Recorder:
        self.calls.append("broadcast")
        return self

    def wait(self, *timeout: timedelta) -> None:
        self.calls.append(f"wait {timeout[0].total_seconds():g} s" if timeout else "wait")

    def wait_stream(self, stream: str) -> None:
        self.calls.append(f"after the {stream}")

    def synchronize(self) -> None:
        self.calls.append("to its end")


@pytest.fixture
def recorder(monkeypatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: recorder)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: "default stream")
    return recorder


def broadcast(recorder: Recorder, flat: Tensor) -> list[str]:
    group = ServerGroup("of a server", store=None, backend=recorder)  # pyright: ignore[reportArgumentType]
    asyncio.run(group.broadcast(flat, 5.0))
    return recorder.calls


def test_a_bucket_is_on_its_way_beside_the_stream_that_fills_the_next(recorder):
    flat = torch.zeros(4).as_subclass(OnGpu)
    calls = ["after the default stream", "broadcast", "wait", "to its end"]
    assert broadcast(recorder, flat) == calls


def test_a_broadcast_on_the_host_has_the_deadline_of_the_server(recorder):
    assert broadcast(recorder, torch.zeros(4)) == ["broadcast", "wait 5 s"]
