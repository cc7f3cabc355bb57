"""Plans of runs that learn from given responses: `sft` and `prefer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megatron_stare.config.prefer import PreferConfig
from megatron_stare.config.sft import SftConfig
from megatron_stare.errors import UserError
from megatron_stare.plan.job import Job
from megatron_stare.plan.lengths import drawn_batch
from megatron_stare.plan.plan import make_plan
from megatron_stare.plan.report import plan_report
from tests.unit.plan.jobs import job_of
from tests.unit.weights.published import QWEN25_32B, write


def job_on_pairs(folder: Path, **sections: Any) -> Job:
    return job_of(config_of(folder, PreferConfig, **sections), gpus=32, generators=None)


def config_of(folder: Path, kind: Any, **sections: Any) -> Any:
    """Of a Qwen2.5-32B on two nodes a replica."""
    write(folder, QWEN25_32B)
    model = {"path": folder, "dtype": "bfloat16", "recompute": "full"}
    parallel = {"tensor": 8, "context": 2, "sequence": True}
    data = {"path": "rows.jsonl", "max_tokens": 4096}
    return kind.model_validate({"model": model, "parallel": parallel, "data": data, **sections})


def test_a_step_goes_through_both_responses_of_every_pair(tmp_path):
    job = job_on_pairs(tmp_path, prefer={"pairs_per_step": 24})
    batch = drawn_batch(job, seed=1)
    assert len(batch.responses) == 48
    assert set(batch.prompts) == {200}  # As assumed.
    assert max(batch.responses) <= 4096 - 200


def test_examples_are_one_response_each_and_are_scored_by_their_update_alone(tmp_path):
    config = config_of(tmp_path, SftConfig, sft={"examples_per_step": 24})
    plan = make_plan(job_of(config, gpus=32, generators=None))
    assert len(drawn_batch(plan.job, seed=1).responses) == 24
    assert (plan.mean("prepass"), plan.mean("num_kept"), plan.stages[0].reference) == (0, 0, 0)


@pytest.mark.parametrize(("method", "copies", "passes"), [("dpo", 1, 2), ("simpo", 0, 1)])
def test_a_reference_is_a_copy_of_the_weights_and_a_pass(tmp_path, method, copies, passes):
    job = job_on_pairs(tmp_path, algorithm={"method": method}, prefer={"pairs_per_step": 8})
    plan = make_plan(job)
    (stage,) = plan.stages
    assert stage.reference == copies * stage.parameters
    assert sum(need.passes for need in job.config.needs) == passes
    assert plan.mean("prepass") > 0


def test_nothing_generates_and_no_weights_are_sent(tmp_path):
    plan = make_plan(job_on_pairs(tmp_path, prefer={"pairs_per_step": 8}))
    assert (plan.job.num_servers, plan.traffic.sync) == (0, 0)
    report = plan_report(plan)
    assert "8 x 2 responses of at most 3896 tokens a step" in report
    assert "generate" not in report


def test_servers_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--rollout-gpus 8 with rollout.engine=None"):
        job_of(config_of(tmp_path, PreferConfig), gpus=32, generators=8)


def test_another_layout_is_a_job_of_the_same_kind(tmp_path):
    job = job_on_pairs(tmp_path)
    other = job.with_layout(job.parallel.model_copy(update={"context": 1}), "selective")
    assert isinstance(other.config, PreferConfig)
    assert (other.data, job.data) == (4, 2)
