"""The examples run as they are, cut short."""

import math
import subprocess
import sys

import pytest

from examples.countdown.figure import write_figure
from examples.countdown.make_data import make_data as make_countdown
from examples.countdown.measure import markdown_table, measure_runs
from examples.countdown.warmup import check_warmup
from examples.preferences.make_data import make_data as make_preferences
from examples.tiny_tools.figure import write_figure as write_tools_figure
from examples.tiny_tools.make_data import make_data as make_tools
from examples.tiny_tools.measure import measure_policy
from megatron_stare.errors import UserError
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


def test_preferences_are_learned_from_its_configs(tmp_path):
    data = tmp_path / "data"
    make_preferences(data, seed=1)
    configs = REPO / "examples"
    succeed(
        *("sft", configs / "tiny_addition/sft.yaml", f"run.dir={tmp_path}/sft", "sft.steps=1"),
        *(f"model.path={data}/model", f"data.path={data}/sft.jsonl", "sft.examples_per_step=8"),
    )
    succeed(
        *("prefer", configs / "preferences/prefer.yaml", f"run.dir={tmp_path}/run"),
        *(f"model.path={tmp_path}/sft/hf/final", f"data.path={data}/pairs.jsonl"),
        *(f"eval.data.path={data}/heldout.jsonl", "prefer.steps=2", "prefer.pairs_per_step=4"),
    )
    before, *_, after = metrics_of(tmp_path / "run")
    assert before["eval/pairs_loss"] == pytest.approx(math.log(2))
    assert after["eval/pairs_loss"] < before["eval/pairs_loss"]


def test_countdown_trains_from_its_configs_and_is_measured(tmp_path):
    data, warmup, run = (tmp_path / name for name in ("data", "sft-seed1", "stare-seed1"))
    make_countdown(data, seed=1)
    configs = REPO / "examples/countdown"
    succeed(
        *("sft", configs / "sft.yaml", f"run.dir={warmup}", "sft.steps=4"),
        *(f"model.path={data}/model", f"data.path={data}/sft.jsonl", "sft.examples_per_step=16"),
    )
    with pytest.raises(UserError, match="the warm-up failed"):
        check_warmup(warmup)
    succeed(
        *("train", configs / "train.yaml", f"run.dir={run}", "train.steps=3"),
        *(f"model.path={warmup}/hf/final", f"data.path={data}/train.jsonl"),
        *(f"eval.data.path={data}/dev.jsonl", "eval.max_prompts=4"),
        *("rollout.dynamic_sampling=false", "algorithm.stare.target_entropy=0.5"),
        "algorithm.stare.anneal={to: 0.2, from_step: 1, to_step: 3}",
    )
    trained = metrics_of(run)[1:]
    assert [m["stare/target"] for m in trained] == pytest.approx([0.5, 0.35, 0.2])
    assert all(m["time/processor_s"] > 0 for m in trained)

    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join((data / "test.jsonl").read_text().splitlines(keepends=True)[:8]))
    measures = measure_runs([run], problems, warmup)
    assert len((run / "measured/problems.jsonl").read_text().splitlines()) == 8
    assert len(markdown_table(measures).splitlines()) == 4
    write_figure([run], measures, warmup.name, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_tiny_tools_trains_on_turns_from_its_configs_and_is_measured(tmp_path):
    data, warmup, run = (tmp_path / name for name in ("data", "sft-seed1", "stare-seed1"))
    make_tools(data, seed=1)
    configs = REPO / "examples/tiny_tools"
    succeed(
        *("sft", configs / "sft.yaml", f"run.dir={warmup}", "sft.steps=30"),
        *(f"model.path={data}/model", f"data.path={data}/sft.jsonl", "sft.examples_per_step=16"),
    )
    succeed(
        *("train", configs / "train.yaml", f"run.dir={run}", "train.steps=2"),
        *(f"model.path={warmup}/hf/final", f"data.path={data}/train.jsonl"),
        *(f"eval.data.path={data}/dev.jsonl", "eval.max_prompts=4"),
        *("rollout.dynamic_sampling=false", "rollout.prompts_per_step=8"),
    )
    trained = metrics_of(run)[1:]
    assert all(math.isfinite(m["entropy/mean"]) for m in trained)
    assert all(m["turns/ended_failed"] == 0 for m in trained)
    assert sum(m["tools/used_share"] for m in trained) > 0

    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join((data / "test.jsonl").read_text().splitlines(keepends=True)[:16]))
    measures = measure_policy(run, problems)
    assert len((run / "measured/with_tools/eval_samples.jsonl").read_text().splitlines()) == 64
    assert measures["entropy"] == pytest.approx(trained[-1]["entropy/mean"])
    write_tools_figure([run], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


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
