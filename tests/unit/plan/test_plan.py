"""Whole plans: what they say, what they refuse, and what a search finds."""

from __future__ import annotations

import json

import pytest

from megatron_stare.cli import main
from megatron_stare.config_io import to_yaml
from megatron_stare.errors import UserError
from megatron_stare.plan.hardware import read_assumptions
from megatron_stare.plan.job import Job
from megatron_stare.plan.memory import (
    GIB,
    StageMemory,
    micro_batches_in_flight,
    num_kept,
    stage_memory,
)
from megatron_stare.plan.plan import check_fits, make_plan
from megatron_stare.plan.report import plan_report
from megatron_stare.plan.search import search
from megatron_stare.plan.speed import speed_of
from megatron_stare.plan.training import Batch, training_time
from megatron_stare.plan.weights import tabulated_elements
from megatron_stare.policy.flops import sample_cost
from megatron_stare.policy.meta import HeldElements
from tests.unit.plan.jobs import config_of, job_of

ONE_GRAPH = {"keep_graph": "never"}
"""One micro-batch at a time is under way."""


def test_a_plan_of_32b_on_64_gpus(tmp_path):
    """Weights 16-bit, gradients 32-bit, a sixteenth of the world's optimizer: by hand."""
    plan = make_plan(job_of(config_of(tmp_path, train=ONE_GRAPH)))
    (stage,) = plan.stages
    parameters = 32.76e9 / 8
    assert stage.parameters == pytest.approx(2 * parameters, rel=1e-3)
    assert stage.gradients == pytest.approx(4 * parameters, rel=1e-3)
    assert stage.optimizer == pytest.approx(12 * parameters / 2, rel=1e-3)
    # 64 layers' inputs of 32768 / 2 / 8 tokens, and the head's rows.
    layers, rows = 64 * 2048 * 5120 * 2, 16384 * 5120 * 2
    assert stage.activations == pytest.approx(layers + rows, rel=0.05)
    assert stage.peak[1] == max(stage.phases.values()) < 75 * GIB
    check_fits(plan)
    assert "fits" in plan_report(plan)


def test_a_plan_without_servers_has_training_only(tmp_path):
    config = config_of(tmp_path, rollout={"engine": "embedded", "servers": {}})
    plan = make_plan(job_of(config, gpus=16, generators=None))
    assert plan.mean("generate") == 0.0
    assert plan.mean("step") == plan.mean("total") > 0.0


def stage_memory_of(job: Job) -> StageMemory:
    """Of one stage, with 10^9 parameters."""
    held = HeldElements(10**9, 10**9, 10**9)
    return stage_memory(job, held, 0, num_micro_batches=8, response_tokens=10**6)


EMBEDDING_BYTES = 152_064 * 5120 * 2
"""The largest parameter."""


def test_rank_0_has_buckets_and_checksums_of_what_it_sends_to_servers(tmp_path):
    parallel = {"pipeline": 2, "tensor": 4, "context": 2, "sequence": True}
    held = HeldElements(10**9, 10**9, 10**9)
    for transport, buckets in (("disk", 0), ("tensor", 0), ("distributed", 2)):
        rollout = {"servers": {"registry": "servers", "transport": transport}}
        job = job_of(config_of(tmp_path, rollout=rollout, parallel=parallel))
        first, last = (
            stage_memory(job, held, stage, num_micro_batches=8, response_tokens=10**6)
            for stage in range(2)
        )
        assert (first.buffers, last.buffers) == (buckets * EMBEDDING_BYTES, 0)
        assert first.sync - last.sync == 2 * EMBEDDING_BYTES  # for checksums
        # Kept from the first sync on, also while the policy learns.
        assert first.held - first.buffers == first.parameters + first.gradients + first.optimizer


def test_a_kl_penalty_takes_one_more_copy_of_the_weights_or_none_beside_servers(tmp_path):
    penalty = {"terms": [{"kl": {"coef": 0.1}}]}
    elsewhere = stage_memory_of(job_of(config_of(tmp_path, algorithm=penalty)))
    assert elsewhere.reference == elsewhere.parameters
    config = config_of(tmp_path, algorithm=penalty, rollout={"colocated": True})
    assert stage_memory_of(job_of(config)).reference == 0


def test_float32_is_planned_with_the_layers_that_it_has(tmp_path):
    """Those of torch, also on a GPU: Transformer Engine's attention does not take it."""
    model = {"dtype": "float32", "recompute": "none"}
    wide = stage_memory_of(job_of(config_of(tmp_path, model=model)))
    half = stage_memory_of(job_of(config_of(tmp_path, model=model | {"dtype": "bfloat16"})))
    assert wide.activations > 2.2 * half.activations


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"parallel": {"tensor": 16}}, {}, "parallel.tensor=16 does not divide the model's 40"),
        ({"parallel": {"pipeline": 3}}, {}, "parallel.pipeline=3 does not divide the model's 64"),
        ({}, {"gpus": 60}, "world size 12 does not fit parallel.tensor=8 x parallel.context=2"),
        ({}, {"generators": 64}, "--gpus 64 with --rollout-gpus 64 leaves no GPU"),
        ({}, {"generators": 0}, "--rollout-gpus 0 with rollout.engine='sglang'"),
        ({}, {"server_gpus": 5}, "--server-gpus 5 does not divide --rollout-gpus 48"),
        ({}, {"server_gpus": 3}, "--server-gpus 3 does not divide the model's 40"),
    ],
)
def test_what_cannot_run_is_refused_by_what_does_not_divide(changes, options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        job_of(config_of(tmp_path, **changes), **options)


def test_what_does_not_fit_is_planned_and_refused(tmp_path, capsys):
    config = config_of(tmp_path, model={"recompute": "none"})
    path = tmp_path / "train.yaml"
    path.write_text(to_yaml(config))
    options = ["--gpus", "32", "--rollout-gpus", "16", "--server-gpus", "4"]
    assert main(["plan", str(path), *options]) == 2
    printed = capsys.readouterr()
    assert "| **peak**" in printed.out
    assert "does not fit" in printed.err
    assert "on pipeline stage 0 (update, head), of 74.6" in printed.err


def test_servers_that_cannot_hold_a_response_are_refused(tmp_path):
    with pytest.raises(UserError, match="--server-gpus 1: beside the weights a server has room"):
        make_plan(job_of(config_of(tmp_path), server_gpus=1))


def test_assumptions_can_be_replaced():
    assumed = read_assumptions(["prompt_tokens=300", "disk_write_gb_s=1.5"])
    assert (assumed.prompt_tokens, assumed.disk_write_gb_s) == (300, 1.5)
    with pytest.raises(UserError, match="did you mean prompt_tokens"):
        read_assumptions(["prompt_token=300"])
    with pytest.raises(UserError, match="--assume signal_share=2"):
        read_assumptions(["signal_share=2"])


@pytest.mark.slow
def test_a_search_ranks_what_fits(tmp_path):
    config = config_of(tmp_path)
    candidates = search(job_of(config))
    times = [candidate.time.total for candidate in candidates]
    assert times == sorted(times)
    assert all(candidate.peak_bytes < 75 * GIB for candidate in candidates)
    best = candidates[0]
    plan = make_plan(best.job)
    assert plan.peak_bytes == pytest.approx(best.peak_bytes, rel=0.01)
    with pytest.raises(UserError, match="no layout fits 4 training GPUs"):
        search(job_of(config_of(tmp_path, parallel={"tensor": 4, "context": 1}), gpus=52))


@pytest.mark.parametrize(
    ("layout", "stage", "expected"),
    [
        ({"pipeline": 4}, 0, 4),
        ({"pipeline": 4}, 3, 1),
        ({"pipeline": 4, "virtual_pipeline": 2}, 0, (2 * 3 + 4 + 1) / 2),
        ({"pipeline": 4, "virtual_pipeline": 2}, 3, (4 + 1) / 2),
    ],
)
def test_micro_batches_in_flight(layout, stage, expected, tmp_path):
    parallel = {"context": 1, **layout}
    job = job_of(config_of(tmp_path, parallel=parallel), generators=32)
    assert micro_batches_in_flight(job, stage, 100) == expected
    assert micro_batches_in_flight(job, stage, 1) == 1


def test_operations_take_their_time(tmp_path):
    """One sample on one replica: forward and backward, prepass and recompute are 5 passes."""
    settings = {"parallel": {"context": 1, "tensor": 8}, "train": ONE_GRAPH}
    job = job_of(config_of(tmp_path, **settings), gpus=56)
    held = tabulated_elements(job.entries, job.parallel, 0, job.num_trainers)
    time = training_time(job, Batch([200], [20_000]), held)
    rate = 8 * 989e12 * job.assumptions.compute_efficiency
    assert time.flops == pytest.approx(
        4 * (2 * 31.2e9 * 20_200 + 2 * 64 * 5120 * 20_200**2), rel=0.05
    )
    assert time.prepass + time.update > time.flops / rate
    assert time.prepass + time.update < 2 * time.flops / rate


def test_after_a_prepass_the_head_of_the_first_update_does_not_go_forward(tmp_path):
    settings = {"parallel": {"context": 1, "tensor": 8}, "train": ONE_GRAPH}
    times = []
    for method in ("stare", "grpo"):
        job = job_of(config_of(tmp_path, **settings, algorithm={"method": method}), gpus=56)
        held = tabulated_elements(job.entries, job.parallel, 0, job.num_trainers)
        times.append(training_time(job, Batch([200], [20_000]), held))
    stare, grpo = times
    rate = 8 * 989e12 * job.assumptions.compute_efficiency
    head = 2 * 5120 * 152_064 * 20_000
    assert grpo.update - stare.update == pytest.approx(head / rate)
    assert grpo.prepass == 0.0
    assert stare.flops + head == pytest.approx(4 / 3 * grpo.flops)


def test_where_graphs_wait_the_first_update_goes_backward_only(tmp_path):
    times = {}
    for keep in ("auto", "never"):
        settings = {"parallel": {"context": 1, "tensor": 8}, "train": {"keep_graph": keep}}
        job = job_of(config_of(tmp_path, **settings), gpus=80)
        held = tabulated_elements(job.entries, job.parallel, 0, job.num_trainers)
        times[keep] = training_time(job, Batch([200], [20_000]), held)
    once, twice = times["auto"], times["never"]
    assert (once.num_kept, twice.num_kept) == (1, 0)
    assert once.prepass == twice.prepass
    assert once.flops == pytest.approx(
        3 * (2 * 31.2e9 * 20_200 + 2 * 64 * 5120 * 20_200**2), rel=0.05
    )
    rate = 8 * 989e12 * job.assumptions.compute_efficiency
    assert twice.update - once.update > 2 * 31.2e9 * 20_200 / rate


def test_graphs_wait_if_all_fit_beside_what_is_held(tmp_path):
    kept = {}
    for keep in ("auto", "always", "never"):
        settings = {"parallel": {"context": 1, "tensor": 8}, "train": {"keep_graph": keep}}
        job = job_of(config_of(tmp_path, **settings), gpus=80)
        held = tabulated_elements(job.entries, job.parallel, 0, job.num_trainers)
        room = (job.gpu.memory_gib - job.assumptions.reserved_gib) * GIB
        for number in (4, 64):
            counts = {"num_micro_batches": number, "response_tokens": 10**6}
            kept[keep, number] = num_kept(job, held, **counts)
            peak = stage_memory(job, held, 0, **counts, num_kept=kept[keep, number]).peak[1]
            assert (peak > room) == ((keep, number) == ("always", 64))
    assert kept == {
        **{("auto", 4): 4, ("auto", 64): 0, ("always", 4): 4, ("always", 64): 64},
        **{("never", 4): 0, ("never", 64): 0},
    }


def test_no_graph_waits_in_a_pipeline_or_without_a_prepass(tmp_path):
    for settings in (
        {"parallel": {"context": 1, "tensor": 8, "pipeline": 2}},
        {"parallel": {"context": 1, "tensor": 8}, "algorithm": {"method": "grpo"}},
    ):
        job = job_of(config_of(tmp_path, **settings), generators=32)
        held = tabulated_elements(job.entries, job.parallel, 0, job.num_trainers)
        assert num_kept(job, held, num_micro_batches=4, response_tokens=10**6) == 0


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_what_is_made_again_is_counted_apart(tmp_path, recompute):
    """Of a forward pass: all layers, their attention, or the head's logits alone."""
    settings = {"parallel": {"context": 1, "tensor": 8}, "model": {"recompute": recompute}}
    job = job_of(
        config_of(tmp_path, **settings, train=ONE_GRAPH, algorithm={"method": "grpo"}), gpus=56
    )
    held = tabulated_elements(job.entries, job.parallel, 0, job.num_trainers)
    time = training_time(job, Batch([200], [20_000]), held)
    head = 2 * 5120 * 152_064 * 20_000
    layers = time.flops / 3 - head
    pairs = sample_cost(job.shape).per_token_pair * 20_200**2
    again = {"none": 0.0, "selective": pairs, "full": layers}[recompute]
    assert time.flops_again == pytest.approx(head + again, rel=1e-6)


def test_both_definitions_of_speed_and_of_use(tmp_path):
    """A token counts over all 64 GPUs, or over those that train."""
    plan = make_plan(job_of(config_of(tmp_path, train=ONE_GRAPH)))
    speed, peak = speed_of(plan), plan.job.num_trainers * 989e12
    tokens = plan.mean("tokens")
    assert speed.tokens_s_gpu == pytest.approx(tokens / plan.mean("step") / 64)
    trainers = plan.job.num_trainers
    assert speed.tokens_s_trainer == pytest.approx(tokens / plan.mean("total") / trainers)
    assert speed.mfu == pytest.approx(plan.mean("flops") / plan.mean("total") / peak)
    assert speed.hfu > speed.mfu * 1.2  # It recomputes in full.
    said = plan_report(plan)
    assert f"MFU {100 * speed.mfu:.0f}%, HFU {100 * speed.hfu:.0f}%" in said
    assert f"{speed.tokens_s_gpu:,.0f} tokens a second and GPU" in said


def test_a_plan_as_json_has_what_the_report_says(tmp_path, capsys):
    path = tmp_path / "train.yaml"
    path.write_text(to_yaml(config_of(tmp_path, train=ONE_GRAPH)))
    assert main(["plan", str(path), "--gpus", "64", "--rollout-gpus", "48", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gpu"] == "h100-80"
    assert found["trainers"] + found["server_gpus"] == 64
    assert found["peak_bytes"] == max(stage["peak_bytes"] for stage in found["stages"])
    assert found["speed"]["hfu"] > found["speed"]["mfu"] > 0
    assert len(found["steps"]) == 4
    assert all(step["training"]["flops_again"] > 0 for step in found["steps"])
    assert found["bytes_sent"]["tensor"] > 0
    assert main(["plan", str(path), "--gpus", "64", "--search", "--json"]) == 0
    layouts = json.loads(capsys.readouterr().out)
    seconds = [one["training"]["total"] for one in layouts]
    assert seconds == sorted(seconds)
    assert {"tensor", "pipeline", "context", "data"} <= layouts[0]["layout"].keys()
