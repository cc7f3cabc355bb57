"""`train` where a GPU is all there is: no tensor is on the wrong device, on any kind of rank.

Every operation of a run, engine and checkpoints included, is held to what CUDA takes, and every
collective to what NCCL takes (`fake_cuda`). The head's kernels are torch's here, since Triton's
need a GPU; that it says so and goes on is rehearsed with the rest.
"""

from __future__ import annotations

import json

import pytest

from tests.gpu_rehearsal.processes import RankFailed
from tests.gpu_rehearsal.runs import train_config

LAYOUTS = {
    "one rank": (),
    "tp2 sp": ("parallel.tensor=2", "parallel.sequence=true"),
    "cp2": ("parallel.context=2",),
    "pp2": ("parallel.pipeline=2",),
    # Two updates a step, with engine log-probs in the ratio and in the selection.
    "dp2": (
        *("train.updates_per_step=2", "algorithm.links=[grpo, stare, tis]"),
        "algorithm.stare.surprisal=rollout",
    ),
}


def test_the_device_refuses_what_cuda_refuses(fake_gpu):
    """Else the runs below would prove nothing."""
    (outcomes,) = fake_gpu.run("tests.gpu_rehearsal.devices:outcomes")
    for case, outcome in outcomes.items():
        assert case.startswith("taken") == (outcome == "taken"), (case, outcome)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_mixes_no_devices(layout, fake_gpu, tmp_path):
    config = train_config(tmp_path)
    overrides = [f"run.dir={tmp_path / 'run'}", *LAYOUTS[layout]]
    ranks = fake_gpu.run(
        "tests.gpu_rehearsal.programs:command",
        ["train", str(config), *overrides],
        processes=1 if layout == "one rank" else 2,
    )
    for rank in ranks:
        assert rank["code"] == 0
        assert rank["mixups"] == []
        operations = {(name, device) for name, device, *_ in rank["collectives"]}
        # Gradients are summed, weights gathered: by NCCL.
        assert ("allreduce", "cuda") in operations
        assert {device for name, device in operations if "reduce" in name} == {"cuda"}
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    norms = {
        line["step"]: line["optim/grad_norm"]
        for line in map(json.loads, lines)
        if "optim/grad_norm" in line
    }
    assert norms.keys() == {1, 2}
    assert all(norm > 0 for norm in norms.values())
    assert (tmp_path / "run/hf/final/config.json").exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("tokens_on_the_cpu", "Expected all tensors to be on the same device"),
        ("a_sum_on_the_cpu", "a CPU tensor in a collective, which is NCCL's"),
        ("a_sum_of_a_type_that_nccl_has_not", "NCCL has no torch.int16"),
    ],
)
def test_a_planted_fault_ends_the_run(fault, message, fake_gpu, tmp_path):
    arguments = ["train", str(train_config(tmp_path)), f"run.dir={tmp_path / 'run'}"]
    with pytest.raises(RankFailed, match=message):
        fake_gpu.run("tests.gpu_rehearsal.programs:command", arguments, fault)
