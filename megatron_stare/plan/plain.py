"""A plan as plain values, for programs: bytes, seconds, numbers of operations."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from megatron_stare.plan.plan import Plan
from megatron_stare.plan.search import Candidate
from megatron_stare.plan.speed import flops_share, speed_of
from megatron_stare.weights.names import num_parameters


def plan_as_plain(plan: Plan) -> dict[str, Any]:
    """All that the report says, and each simulated step."""
    job = plan.job
    return {
        "gpu": job.gpu.name,
        "trainers": job.num_trainers,
        "server_gpus": job.num_generators,
        "servers": job.num_servers,
        "layout": job.parallel.model_dump() | {"data": job.data},
        "parameters": num_parameters(job.entries),
        "peak_bytes": plan.peak_bytes,
        "stages": [
            asdict(stage) | {"peak_bytes": stage.peak[1], "peak_in": stage.peak[0]}
            for stage in plan.stages
        ],
        "bytes_sent": asdict(plan.traffic),
        "speed": speed_of(plan)._asdict(),
        "steps": [asdict(step) for step in plan.steps],
    }


def candidates_as_plain(candidates: list[Candidate]) -> list[dict[str, Any]]:
    """Layouts of a search, the fastest first."""
    return [
        {
            "layout": one.job.parallel.model_dump() | {"data": one.job.data},
            "recompute": one.job.config.model.recompute,
            "peak_bytes": one.peak_bytes,
            "mfu": flops_share(one.job, one.time.flops, one.time.total),
            "training": asdict(one.time) | {"total": one.time.total},
        }
        for one in candidates
    ]
