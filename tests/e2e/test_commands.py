"""The commands in the order a user runs them: sft, train, eval, report, on a tiny model."""

import json
import shutil

import pyarrow.json
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.e2e.programs import make_workspace, metrics_of, run_command, succeed, write_jsonl
from tests.models import hf_tensors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A policy warmed up by `sft`, and trained by `train` with the embedded engine."""
    folder = make_workspace(tmp_path_factory.mktemp("commands"))
    succeed("sft", folder / "sft.yaml")
    held_out = [f"eval.data.path={folder}/prompts.jsonl", "eval.samples_per_prompt=4"]
    succeed(
        "train",
        folder / "train.yaml",
        f"model.path={folder}/sft/hf/final",
        *("rollout.engine=embedded", "rollout.replay_path=null", "rollout.dynamic_sampling=false"),
        *(
            "rollout.max_response_tokens=8",
            "algorithm.stare.adaptive=true",
            "train.updates_per_step=2",
        ),
        *("algorithm.terms=[{kl: {coef: 0.01}}]", "train.steps=3", "train.save_every=2"),
        *held_out,
        *("eval.max_response_tokens=8", "log.tensorboard=true"),
    )
    return folder


def test_sft_learns(workspace):
    losses = [metrics["sft/loss"] for metrics in metrics_of(workspace / "sft")]
    assert losses[-1] < 0.5 * losses[0]


def test_every_step_logs_every_metric_of_training(workspace):
    steps = metrics_of(workspace / "run")[1:]
    assert len(steps) == 3
    for metrics in steps:
        for group in ("entropy", "stare", "quadrant", "reward", "rollout", "loss", "mismatch"):
            assert any(name.startswith(f"{group}/") for name in metrics), group
        phases = ("generate", "prepass", "update", "sync")
        assert all(metrics[f"time/{phase}_s"] > 0 for phase in phases)


def test_the_engine_and_the_trainer_agree_on_logprobs(workspace):
    for metrics in metrics_of(workspace / "run")[1:]:
        assert metrics["mismatch/max"] < 1e-4
        assert metrics["mismatch/ess"] > 0.999
        assert abs(metrics["entropy/mean"] - metrics["entropy/surprisal_mean"]) < 1.0


def test_held_out_problems_are_evaluated_before_and_after(workspace):
    steps = metrics_of(workspace / "run")
    assert "eval/pass_at_4" in steps[0]
    assert "eval/pass_at_4" in steps[-1]


def test_every_sample_is_dumped_with_its_advantage(workspace):
    lines = (workspace / "run/samples/step_000001.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert len(samples) == 16
    for sample in samples:
        assert len(sample["logprobs"]) == len(sample["token_ids"])
        assert sample["advantage"] is not None


@pytest.mark.parametrize("name", ["step_000002", "final"])
def test_transformers_loads_what_was_saved(workspace, name):
    folder = workspace / "run" / "hf" / name
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("3+14=", return_tensors="pt").input_ids
    assert model.generate(prompt, max_new_tokens=4, do_sample=False).shape[1] > prompt.shape[1]


def test_training_moved_the_weights(workspace):
    before = hf_tensors(workspace / "sft/hf/final")
    after = hf_tensors(workspace / "run/hf/final")
    assert any((before[name] - after[name]).abs().max() > 1e-4 for name in before)


def test_eval_measures_a_folder(workspace, tmp_path):
    config = tmp_path / "eval.yaml"
    config.write_text(
        f"run: {{dir: {tmp_path}/eval}}\n"
        f"model: {{path: {workspace}/run/hf/final}}\n"
        "reward: {kind: exact}\n"
        f"eval: {{data: {{path: {workspace}/prompts.jsonl}}, samples_per_prompt: 4,\n"
        "  max_response_tokens: 8}\n"
    )
    printed = succeed("eval", config)
    metrics = json.loads((tmp_path / "eval/eval.json").read_text())
    last = metrics_of(workspace / "run")[-1]
    assert metrics["eval/avg_at_k"] == pytest.approx(last["eval/avg_at_k"])
    assert metrics["eval/avg_at_k_se"] > 0
    [row] = [line.split() for line in printed.splitlines() if line.split()[:1] == ["all"]]
    assert row[1:4] == ["12", "4", f"{100 * metrics['eval/avg_at_k']:.1f}%"]


@pytest.fixture(scope="module")
def engine_ranked(workspace, tmp_path_factory):
    """The same policy trained on prompts in Parquet, its tokens ranked by the engine."""
    run = tmp_path_factory.mktemp("engine_ranked")
    problems = pyarrow.json.read_json(workspace / "prompts.jsonl")
    pyarrow.parquet.write_table(problems, run / "prompts.parquet")
    succeed(
        *("train", workspace / "train.yaml", f"run.dir={run}", f"data.path={run}/prompts.parquet"),
        f"model.path={workspace}/sft/hf/final",
        *("rollout.engine=embedded", "rollout.replay_path=null", "rollout.dynamic_sampling=false"),
        *("rollout.max_response_tokens=8", "algorithm.links=[grpo, stare, icepop]"),
        "algorithm.stare.surprisal=rollout",
        # So early, answers are all wrong; some of them at least look right.
        *("reward.format_pattern=.*[0-4]", "reward.format_reward=0.5"),
    )
    return run


def test_ranking_by_the_engine_needs_no_prepass(engine_ranked):
    for metrics in metrics_of(engine_ranked):
        assert "time/prepass_s" not in metrics
        assert metrics["time/update_s"] > 0
        assert metrics["stare/gate"] == 1.0


def test_an_engine_that_agrees_leaves_nothing_to_correct(engine_ranked):
    for metrics in metrics_of(engine_ranked):
        assert metrics["mismatch/corrected_share"] == 0
        assert metrics["mismatch/correction_mean"] == pytest.approx(1, abs=1e-4)


def test_engine_and_policy_select_the_same_tokens(engine_ranked):
    for metrics in metrics_of(engine_ranked):
        assert metrics["stare/engine_overlap"] >= 0.99


def test_without_stare_a_single_update_needs_no_prepass(workspace, tmp_path):
    """And it is the step that STARE takes with weights of 1; its quadrants can be observed."""
    methods = {"plain": "algorithm.links=[grpo, quadrants]", "of_1": "algorithm.stare.w=1.0"}
    for name, change in methods.items():
        settings = (f"run.dir={tmp_path}/{name}", "train.steps=3", change)
        succeed("train", workspace / "train.yaml", *settings)
    for plain, of_1 in zip(*(metrics_of(tmp_path / n) for n in ("plain", "of_1")), strict=True):
        assert of_1.pop("time/prepass_s") > 0
        assert "time/prepass_s" not in plain
        assert of_1["stare/gate"] == 1.0
        of_1 = {name: value for name, value in of_1.items() if not name.startswith("stare/")}
        assert step_of(plain) == pytest.approx(step_of(of_1), rel=1e-4, abs=1e-6)


def test_an_entropy_bonus_keeps_entropy_up(workspace, tmp_path):
    """On the same recorded samples, step by step."""
    for name, terms in (("plain", "[]"), ("bonus", "[{entropy: {coef: 1.0}}]")):
        settings = (f"run.dir={tmp_path}/{name}", "train.steps=5", "algorithm.method=grpo")
        model = f"model.path={workspace}/sft/hf/final"
        settings = (*settings, model, f"algorithm.terms={terms}")
        succeed("train", workspace / "train.yaml", *settings)
    plain, bonus = (
        [metrics["entropy/mean"] for metrics in metrics_of(tmp_path / name)]
        for name in ("plain", "bonus")
    )
    assert bonus[0] == plain[0]
    gains = [high - low for high, low in zip(bonus[1:], plain[1:], strict=True)]
    assert gains == sorted(gains)
    assert gains[-1] > 0.1


def step_of(metrics):
    """What a step did: neither its speed, nor what may not apply, nor what is unknown."""
    others = ("time/", "perf/", "stare/w", "stare/target")
    return {k: v for k, v in metrics.items() if v is not None and not k.startswith(others)}


def test_weights_that_are_not_finite_are_refused_with_one_line(workspace, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(workspace / "sft/hf/final", broken)
    weights = broken / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, weights)
    done = run_command(
        *("train", workspace / "train.yaml", f"run.dir={tmp_path}/run", f"model.path={broken}")
    )
    assert done.returncode == 2
    said = "model.safetensors: model.norm.weight has 1 of 48 values that are not finite"
    assert said in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()
    assert "Traceback" not in done.stderr


def test_a_run_says_once_that_text_grows_behind_its_answers(workspace, tmp_path):
    lines = (workspace / "prompts.jsonl").read_text().splitlines()
    problems = [json.loads(line) for line in lines]
    texts = [r"\boxed{%s}}}", r"\boxed{%s}", r"\boxed{0%s}", r"\boxed{%s0}"]
    write_jsonl(
        tmp_path / "replay.jsonl",
        [p | {"response": text % p["answer"]} for p in problems for text in texts],
    )
    printed = succeed(
        *("train", workspace / "train.yaml", f"run.dir={tmp_path}/run", "train.steps=2"),
        *("reward.kind=exact", f"rollout.replay_path={tmp_path}/replay.jsonl"),
    )
    signs = [line for line in printed.splitlines() if "reward/tail_share" in line]
    assert len(signs) == 1
    assert signs[0].startswith("step 1: reward/tail_share is 0.25, above 0.2")
    for metrics in metrics_of(tmp_path / "run"):
        assert metrics["reward/tail_share"] == 0.25
        assert metrics["reward/signal_share"] == 1.0
        assert metrics["reward/distinct_answers"] == 3.0
        assert metrics["rollout/drawn"] == 4.0


def test_report_compares_runs_in_one_page(workspace, tmp_path):
    printed = succeed("report", workspace / "run", "--out", tmp_path / "report")
    page = tmp_path / "report/report.html"
    assert str(page) in printed
    assert "<img" in page.read_text()


def test_config_prints_what_a_run_resolved_to(workspace):
    printed = succeed("config", workspace / "train.yaml", "optim.lr=2e-6")
    assert "lr: 2.0e-06" in printed
