"""A plan as Markdown tables, the same on a terminal and in a README."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_stare.plan.job import Job
from megatron_stare.plan.memory import GIB
from megatron_stare.plan.plan import Plan
from megatron_stare.plan.search import Candidate
from megatron_stare.plan.speed import flops_share, speed_of
from megatron_stare.weights.names import num_parameters

_SHOWN = 10
"""Layouts of a search that are shown."""


def plan_report(plan: Plan) -> str:
    """The whole plan."""
    return "\n\n".join([_heading(plan.job), _memory(plan), _traffic(plan), _time(plan)])


def search_report(candidates: Sequence[Candidate]) -> str:
    """The best layouts."""
    rows = [
        [
            candidate.job.parallel.named(candidate.job.data),
            candidate.job.config.model.recompute,
            f"{candidate.peak_bytes / GIB:.1f}",
            f"{candidate.time.total:.1f}",
            f"{100 * candidate.time.busy_share:.0f}%",
            f"{100 * flops_share(candidate.job, candidate.time.flops, candidate.time.total):.0f}%",
        ]
        for candidate in candidates[:_SHOWN]
    ]
    job = candidates[0].job
    head = ["layout", "recompute", "peak GiB", "training s", "busy", "MFU"]
    return (
        f"{len(candidates)} layouts of {job.num_trainers} training GPUs fit; the fastest:\n\n"
        + table(head, rows)
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads as text too."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([line(head), line(rule), *map(line, rows)])


def _heading(job: Job) -> str:
    shape, rows = job.shape, job.rows
    trainers = (
        f"{job.num_trainers} train as {job.parallel.named(job.data)}, "
        f"recompute {job.config.model.recompute}"
    )
    servers = ""
    if job.num_servers:
        servers = f"; {job.num_generators} generate, {job.num_servers} servers of {job.server_gpus}"
    return (
        f"{shape.family}, {num_parameters(job.entries) / 1e9:.2f} B parameters, on "
        f"{job.num_trainers + job.num_generators} x {job.gpu.name}: {trainers}{servers}.\n"
        f"{rows.prompts} x {rows.responses} responses of at most {rows.response_tokens} tokens a "
        f"step, micro-batches of {job.config.loop.max_tokens_per_micro_batch} tokens."
    )


def _memory(plan: Plan) -> str:
    names = _stage_names(plan)
    fields = [
        ("parameters", "parameters"),
        ("gradients, float32", "gradients"),
        ("optimizer", "optimizer"),
        ("reference", "reference"),
        ("buckets to servers", "buffers"),
        ("kept for the backward", "activations"),
        ("a layer's backward", "working"),
        ("head", "head"),
        ("terms of the batch", "batch"),
        ("weight sync", "sync"),
    ]
    rows = [
        [name, *(f"{getattr(stage, field) / GIB:.2f}" for stage in plan.stages)]
        for name, field in fields
        if any(getattr(stage, field) for stage in plan.stages)
    ]
    rows += [
        ["micro-batches in flight", *(f"{stage.in_flight:g}" for stage in plan.stages)],
        ["**peak**", *(f"**{stage.peak[1] / GIB:.2f}**" for stage in plan.stages)],
        ["in", *(stage.peak[0] for stage in plan.stages)],
    ]
    gpu, reserved = plan.job.gpu, plan.job.assumptions.reserved_gib
    room = gpu.memory_gib - reserved
    verdict = "fits" if plan.peak_bytes <= room * GIB else "does not fit"
    return (
        f"Memory, GiB on a training GPU ({verdict}: {plan.peak_bytes / GIB:.1f} of {room:.1f}, "
        f"{reserved:g} of {gpu.memory_gib:g} being reserved)\n\n" + table(["", *names], rows)
    )


def _stage_names(plan: Plan) -> list[str]:
    count = plan.job.parallel.pipeline
    if count == 1:
        return ["every rank"]
    numbers = [stage.stage for stage in plan.stages]
    middle = f"stages 1 to {count - 2}" if count > 3 else "stage 1"
    return [middle if 0 < number < count - 1 else f"stage {number}" for number in numbers]


def _traffic(plan: Plan) -> str:
    traffic = plan.traffic
    groups = ["tensor", "context", "pipeline", "expert", "data", "sync"]
    used = [group for group in groups if getattr(traffic, group)]
    if not used:
        return "Communication: none, on one training GPU."
    cells = [f"{getattr(traffic, group) / 1e9:.1f}" for group in used]
    return "Communication, GB that a training GPU sends in a step, by group\n\n" + table(
        ["", *used], [["GB", *cells]]
    )


def _time(plan: Plan) -> str:
    names = ["generate", "prepass", "update", "exchange", "optimizer", "sync", "step"]
    if plan.job.num_servers == 0:
        names = names[1:5]
    cells = [f"{plan.mean(name):.1f}" for name in names]
    speed = speed_of(plan)
    text = (
        f"Seconds of a step (estimates, docs/plan.md)\n\n{table(['', *names], [['s', *cells]])}\n\n"
        f"{speed.tokens_s_gpu:,.0f} tokens a second and GPU, {speed.tokens_s_trainer:,.0f} by the "
        f"trainers alone.\n{plan.mean('flops') / 1e15:.0f} PFLOP a step, and "
        f"{plan.mean('flops_again') / 1e15:.0f} that are made again: MFU {100 * speed.mfu:.0f}%, "
        f"HFU {100 * speed.hfu:.0f}% of the trainers' peak while they train.\nMicro-batches are "
        f"{100 * plan.mean('fill'):.0f}% full, stages busy {100 * plan.mean('busy_share'):.0f}% of "
        "the update."
    )
    if plan.mean("num_kept"):
        text += "\nThe first update goes backward only: the graphs of the prepass wait for it."
    if plan.job.num_servers:
        text += (
            f"\n{plan.mean('response_tokens') / 1e6:.2f} M response tokens a step, of "
            f"{plan.mean('generated') / 1e6:.2f} M generated; trainers wait "
            f"{100 * plan.mean('waiting_share'):.0f}% of the step."
        )
    return text
