"""The examples run as they are, cut short."""

import math
import subprocess
import sys

import pytest

from tests.e2e.programs import REPO, metrics_of, succeed

pytestmark = pytest.mark.slow

RECORDED = REPO.parent / "shared/data/math_recorded_rollouts.jsonl"


def make_data(example: str, *arguments: object) -> None:
    subprocess.run(
        [sys.executable, str(REPO / "examples" / example / "make_data.py"), *map(str, arguments)],
        cwd=REPO,
        check=True,
    )


def test_tiny_addition_trains_from_its_configs(tmp_path):
    data = tmp_path / "data"
    make_data("tiny_addition", data)
    configs = REPO / "examples/tiny_addition"
    succeed(
        *("sft", configs / "sft.yaml", f"run.dir={tmp_path}/sft", "sft.steps=2"),
        *(f"model.path={data}/model", f"data.path={data}/sft.jsonl"),
    )
    succeed(
        *("train", configs / "train.yaml", f"run.dir={tmp_path}/run", "train.steps=1"),
        *(f"model.path={tmp_path}/sft/hf/final", f"data.path={data}/train.jsonl"),
        *("rollout.dynamic_sampling=false", "rollout.max_response_tokens=16"),
        *(f"eval.data.path={data}/heldout.jsonl", "eval.max_prompts=4"),
    )
    assert math.isfinite(metrics_of(tmp_path / "run")[-1]["entropy/mean"])


@pytest.mark.skipif(not RECORDED.exists(), reason=f"no recorded rollouts at {RECORDED}")
def test_recorded_math_takes_stare_steps_on_real_responses(tmp_path):
    data = tmp_path / "data"
    make_data("recorded_math", "--out", data)
    succeed(
        *("train", REPO / "examples/recorded_math/train.yaml", f"run.dir={tmp_path}/run"),
        *(f"model.path={data}/model", f"data.path={data}/prompts.jsonl"),
        *(f"rollout.replay_path={data}/replay.jsonl", "train.steps=2"),
    )
    first, second = metrics_of(tmp_path / "run")
    assert first["rollout/completed"] == 7
    assert first["reward/solve_all"] == first["reward/solve_none"] == 0.0
    assert first["stare/gate"] == 1.0
    assert first["stare/selected_share"] == pytest.approx(0.1, abs=1e-3)
    assert math.isfinite(second["loss/total"])
