"""A CUDA device that the CPU plays, and that is as strict about devices as a real one.

`install()`, before Megatron-Core is imported, makes torch say that there is a GPU. A tensor asked
for on "cuda" lives on the CPU, marked at its storage (`placement`); methods of tensors that name or
change a device go by the mark (`tensors`), `torch.cuda` answers like an H100 (`runtime`). Every
operation is looked at on its way to the CPU's kernel (`checks`): one that mixes devices as CUDA
does not allow raises `DeviceMixup`, and so does a collective that NCCL would not take. Collectives
run over gloo.

What it does not show: anything of time, of streams or of asynchronous kernels.
"""

from __future__ import annotations

import threading

from tests.gpu_rehearsal.fake_cuda.checks import DeviceChecks, DeviceMixup, Record

__all__ = ["DeviceMixup", "Record", "install"]


def install() -> Record:
    """Install the device in this process, for all of its threads; what is recorded is returned."""
    # Before torch answers for CUDA: they ask for it at import.
    import torch._dynamo  # noqa: F401
    import transformers.integrations.sdpa_attention  # noqa: F401

    from tests.gpu_rehearsal.fake_cuda import collectives, runtime, tensors

    record = Record()
    runtime.install()
    tensors.install()
    collectives.install()
    _check_every_thread(record)
    return record


def _check_every_thread(record: Record) -> None:
    """A dispatch mode is a thread's own."""
    DeviceChecks(record).__enter__()
    bootstrap = threading.Thread._bootstrap_inner  # pyright: ignore[reportAttributeAccessIssue]

    def checked(thread: threading.Thread) -> None:
        with DeviceChecks(record):
            bootstrap(thread)

    threading.Thread._bootstrap_inner = checked  # pyright: ignore[reportAttributeAccessIssue]
