"""The numbers that a plan takes from outside: GPUs, and what a run does with them.

Each is an assumption that can be replaced; docs/plan.md says where they come from.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, ValidationError

from megatron_stare.errors import UserError
from megatron_stare.system.settings import Settings


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU and its links, by their data sheets."""

    name: str
    memory_gib: float
    bf16_tflops: float
    """Dense matrix products, in 10^12 operations a second."""
    memory_gb_s: float
    """Reads of its own memory."""
    link_gb_s: float
    """To the other GPUs of its node, one direction."""
    network_gb_s: float
    """To other nodes, one direction."""


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-80", 79.2, 312, 2039, 300, 25),
        Gpu("h100-80", 79.6, 989, 3350, 450, 50),
        Gpu("h200", 140.4, 989, 4800, 450, 50),
        Gpu("b200", 179.1, 2250, 8000, 900, 50),
    )
}
"""By the name that `--gpu` takes; nodes of 8, one 200 to 400 Gbit/s adapter a GPU."""

GPUS_PER_NODE = 8


class Assumptions(Settings):
    """What is not known before a run; `--assume key=value` replaces each."""

    response_mean_share: float = Field(default=0.4, gt=0, le=1)
    """Mean length of a response over the length limit, before the limit cuts."""
    response_log_sigma: float = Field(default=0.8, ge=0)
    """Standard deviation of the logarithm of response lengths."""
    prompt_tokens: int = Field(default=200, ge=1)
    """Mean length of a prompt."""
    signal_share: float = Field(default=0.6, gt=0, le=1)
    """Groups that dynamic sampling keeps, of those generated."""
    compute_efficiency: float = Field(default=0.5, gt=0, le=1)
    """Operations a second of a training pass over the data sheet's."""
    link_efficiency: float = Field(default=0.7, gt=0, le=1)
    """Bytes a second of collectives over the data sheet's, in a node and between nodes."""
    micro_batch_overhead_s: float = Field(default=0.01, ge=0)
    """Launching and waiting, for each micro-batch and stage."""
    decode_bandwidth_share: float = Field(default=0.6, gt=0, le=1)
    """Memory reads a second while decoding, over the data sheet's."""
    decode_compute_share: float = Field(default=0.4, gt=0, le=1)
    """Operations a second while decoding or prefilling, over the data sheet's."""
    decode_overhead_s: float = Field(default=0.004, ge=0)
    """Of a token's step on a server: scheduling, launches, small collectives."""
    server_memory_share: float = Field(default=0.85, gt=0, le=1)
    """Of a server's GPU memory, for weights and the cache of keys and values."""
    reward_s: float = Field(default=5.0, ge=0)
    """From the last response to the last verdict."""
    disk_write_gb_s: float = Field(default=2.0, gt=0)
    """One writer to the file system that trainers and servers share."""
    disk_read_gb_s: float = Field(default=4.0, gt=0)
    """One server's reads from it; servers read at the same time."""
    disk_total_gb_s: float = Field(default=100.0, gt=0)
    """What that file system gives to all of them together."""
    reserved_gib: float = Field(default=5.0, ge=0)
    """GPU memory that tensors cannot have: CUDA context, NCCL, libraries, fragmentation."""


def read_assumptions(overrides: Sequence[str] = ()) -> Assumptions:
    """The defaults with overrides such as `prompt_tokens=300`.

    Raises:
        UserError: an override is no assumption, or its value is out of range.
    """
    values: dict[str, str] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or key not in Assumptions.model_fields:
            close = difflib.get_close_matches(key, Assumptions.model_fields, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"--assume {override!r}: expected name=value of an assumption{hint}")
        values[key] = value
    try:
        return Assumptions.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        message = problem["msg"][0].lower() + problem["msg"][1:]
        raise UserError(f"--assume {problem['loc'][0]}={problem['input']}: {message}") from None
