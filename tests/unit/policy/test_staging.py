"""Copies for checkpoints: the same memory for every save, and piece by piece from a GPU."""

from __future__ import annotations

import pytest
import torch

from megatron_stare.policy.staging import CopiesFromGpu, Staging


class Stream:
    """A stream of a device that is the host, which writes down what is waited for."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def wait_stream(self, other: str) -> None:
        self.calls.append(f"after {other}")

    def record_event(self) -> Stream:
        self.calls.append("asked")
        return self

    def synchronize(self) -> None:
        self.calls.append("arrived")


@pytest.fixture
def stream() -> Stream:
    return Stream()


def copies(stream: Stream, piece_bytes: int = 64) -> CopiesFromGpu:
    pieces = [torch.empty(piece_bytes, dtype=torch.uint8) for _ in range(2)]
    return CopiesFromGpu(stream, pieces)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(), (1,), (8,), (16,), (17,), (33,), (5, 41), (0,)])
def test_a_tensor_of_any_size_arrives_whole(stream, dtype, shape):
    source = (torch.randn(shape) * 1000).to(dtype)
    target = torch.zeros_like(source)
    copies(stream).copy(source, target)
    assert torch.equal(target, source)


def test_one_piece_is_on_its_way_while_the_other_is_emptied(stream):
    copies(stream).copy(torch.arange(40), torch.zeros(40, dtype=torch.int64))
    assert stream.calls == ["asked", *["asked", "arrived"] * 4, "arrived"]


def test_copies_come_after_what_the_device_was_asked_for(stream):
    copies(stream).follow("the step so far")
    assert stream.calls == ["after the step so far"]


def test_a_second_save_takes_the_memory_of_the_first():
    staging = Staging()
    staging.begin(torch.device("cpu"))
    first = staging.copy("a", torch.ones(3))
    second = staging.copy("a", torch.full((3,), 2.0))
    assert second.data_ptr() == first.data_ptr()
    assert second.tolist() == [2.0] * 3
    assert staging.copy("a", torch.ones(4)).shape == (4,)
