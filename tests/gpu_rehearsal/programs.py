"""What ranks run on the fake device; `host.py` calls them with the device's record."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.gpu_rehearsal import faults
from tests.gpu_rehearsal.fake_cuda import Record


def command(record: Record, arguments: Sequence[str], fault: str | None = None) -> dict[str, Any]:
    """`megatron-stare ARGUMENTS`: its exit code, and what the device has seen."""
    from megatron_stare.cli import main

    if fault is not None:
        getattr(faults, fault)()
    code = main(arguments)
    return {
        "code": code,
        "mixups": record.mixups,
        "collectives": [[*key, count] for key, count in sorted(record.collectives.items())],
    }


def describe(record: Record, network: str, layouts: Sequence[str]) -> dict[str, Any]:
    """`networks.described` of each layout, in this process's layers."""
    from tests.gpu_rehearsal.networks import described

    return {layout: described(network, layout) for layout in layouts}


def policy_pass(
    record: Record, folder: str, layout: dict[str, Any], forward_only: bool
) -> dict[str, Any]:
    """`tests.policies.policy_pass` in bfloat16 on this process's layers, as plain values."""
    from megatron_stare.config.policy import ParallelConfig
    from megatron_stare.launch.topology import init_process_group, read_topology
    from megatron_stare.policy.groups import build_groups
    from tests import policies
    from tests.gpu_rehearsal.te_kernels import CALLS

    topology, parallel = read_topology(), ParallelConfig(**layout)
    init_process_group(topology)
    result = policies.policy_pass(
        Path(folder),
        parallel,
        build_groups(parallel),
        policies.RaggedBatch.random(),
        dtype="bfloat16",
        device=topology.device,
        forward_only=forward_only,
    )
    return {
        "mixups": record.mixups,
        "calls": sorted(CALLS),
        "tp_rank": result.tp_rank,
        "logprobs": result.logprobs.tolist(),
        "entropies": result.entropies.tolist(),
        "gradients": {name: gradient.tolist() for name, gradient in result.gradients.items()},
    }


def gpu_check(record: Record, arguments: Sequence[str]) -> dict[str, Any]:
    """`tools/gpu_check.py ARGUMENTS`, its checks forked so that they have the device."""
    sys.path.insert(0, "tools")
    import gpu_check

    return {"code": gpu_check.main(arguments, start_method="fork"), "mixups": record.mixups}
