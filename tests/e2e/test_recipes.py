"""Every recipe: its config holds, its README shows its plan, and it takes a step shrunk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist

from examples.smoke import smoke
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.sft import SftConfig
from megatron_stare.config_io import load_config
from megatron_stare.slurm.job import plan_job
from megatron_stare.slurm.script import render
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.names import entries_of, num_parameters
from tests.e2e.programs import metrics_of
from tools.refresh_plans import PLACE, REPO, recipes, refreshed

PUBLISHED_PARAMETERS = {
    "qwen2.5_14b_instruct": 14_770_033_664,
    "qwen2.5_32b_long_cot": 32_763_876_352,
    "qwen2.5_7b_tool_use": 7_615_616_512,
    "qwen2.5_math_7b": 7_615_616_512,
    "qwen3_32b_long_cot": 32_762_123_264,
    "qwen3_8b_base": 8_190_735_360,
    "r1_distill_qwen_1.5b": 1_777_088_000,
}

every_recipe = pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.name)


def test_these_are_all():
    assert {recipe.name for recipe in recipes()} == set(PUBLISHED_PARAMETERS)


@every_recipe
def test_its_config_holds_and_so_does_its_baseline(recipe):
    config = load_config(TrainConfig, recipe / "train.yaml")
    baseline = load_config(TrainConfig, recipe / "train.yaml", ["algorithm.method=grpo"])
    assert "stare" in config.algorithm.links
    assert config.rollout.dynamic_sampling
    assert baseline.model_copy(update={"algorithm": config.algorithm}) == config


@every_recipe
def test_its_network_has_the_published_parameters(recipe):
    shape = read_hf_config(recipe / "model")
    assert num_parameters(entries_of(shape)) == PUBLISHED_PARAMETERS[recipe.name]


@every_recipe
def test_its_script_is_what_the_command_writes_today(recipe, monkeypatch):
    """Where this fails: megatron-stare slurm RECIPE/train.yaml --dry-run > RECIPE/train.sbatch."""
    monkeypatch.chdir(REPO)
    path = recipe.relative_to(REPO) / "train.yaml"
    expected = (recipe / "train.sbatch").read_text(encoding="utf-8")
    assert render(load_config(TrainConfig, path), path) == expected


@every_recipe
def test_its_script_asks_for_the_nodes_that_its_readme_plans(recipe):
    """The README's further plans are of the same nodes with overrides."""
    job = plan_job(config := load_config(TrainConfig, recipe / "train.yaml"))
    planned, *_ = PLACE.findall((recipe / "README.md").read_text(encoding="utf-8"))
    serving = job.server_nodes * job.server_gpus
    assert planned == (
        f"--gpus {job.processes + serving} --rollout-gpus {serving} "
        f"--server-gpus {config.slurm.rollout.tensor}"
    )


def test_the_first_is_the_papers_main_configuration():
    (recipe,) = (recipe for recipe in recipes() if recipe.name == "qwen2.5_math_7b")
    config = load_config(TrainConfig, recipe / "train.yaml")
    rollout, stare = config.rollout, config.algorithm.links["stare"]
    assert (rollout.prompts_per_step, rollout.samples_per_prompt) == (64, 8)
    assert (rollout.temperature, rollout.max_rounds, rollout.is_off_policy) == (1.0, 10, False)
    assert (config.optim.lr, config.train.updates_per_step) == (1e-6, 1)
    assert (stare.variant, stare.target_entropy, stare.top_share, stare.w) == ("O1", 0.3, 0.1, 1.1)
    assert (config.algorithm.terms, config.algorithm.policy["clip"].low) == ({}, 0.2)


def test_the_one_with_tools_runs_as_its_cold_start_has_learned():
    (recipe,) = (recipe for recipe in recipes() if recipe.name == "qwen2.5_7b_tool_use")
    start = load_config(SftConfig, recipe / "sft.yaml")
    config = load_config(TrainConfig, recipe / "train.yaml")
    assert config.eval.data is not None
    assert config.model.path == start.run.dir / "hf" / "final"
    assert (start.workflow, start.tools.names) == (config.workflow, config.tools.names)
    assert start.data.max_observation_tokens == config.rollout.turns.max_observation_tokens
    assert config.data.system_prompt == config.eval.data.system_prompt
    assert (config.rollout.turns.max_turns, config.rollout.turns) == (16, config.eval.turns)


@pytest.mark.slow
@every_recipe
def test_its_readme_shows_its_plan(recipe):
    """Where this fails because plans have changed: python tools/refresh_plans.py."""
    text = (recipe / "README.md").read_text(encoding="utf-8")
    assert "| **peak**" in text
    assert refreshed(recipe) == text


@pytest.mark.slow
@every_recipe
def test_it_takes_a_step_with_its_model_shrunk(recipe: Path, tmp_path):
    assert not dist.is_initialized()
    assert smoke(recipe, tmp_path) == 0
    assert metrics_of(tmp_path / "run")[-1]["time/step_s"] > 0.0
