"""A base config, and folders of runs as a comparison finds them."""

from __future__ import annotations

from pathlib import Path

import yaml

from megatron_stare.compare.plan import PlannedRun
from megatron_stare.config.compare import CompareConfig
from megatron_stare.config_io import load_config, to_yaml
from megatron_stare.observe.history import JsonlLogger
from tests.models import tiny_config

STEPS = 4


def write_base(folder: Path) -> Path:
    """A config of `train` whose model and data are there; evaluated at its end."""
    tiny_config("qwen3").save_pretrained(folder / "model")
    (folder / "problems.jsonl").touch()
    data = {"path": str(folder / "problems.jsonl"), "max_prompt_tokens": 16}
    tree = {
        "model": {"path": str(folder / "model")},
        "data": data,
        "rollout": {"max_response_tokens": 32},
        "train": {"steps": STEPS},
        "eval": {"data": data, "samples_per_prompt": 4},
        "slurm": {"gpus_per_node": 0, "processes_per_node": 1},
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def read_comparison(folder: Path, *overrides: str, **keys: object) -> CompareConfig:
    """A comparison of the base in `folder`, of GRPO and STARE over two seeds unless told else."""
    tree = {"base": str(folder / "train.yaml"), "dir": str(folder / "compared")}
    tree |= {"methods": ["grpo", "stare"], "seeds": [1, 2]}
    path = folder / "compare.yaml"
    path.write_text(yaml.safe_dump(tree | keys))
    return load_config(CompareConfig, path, overrides)


def write_finished(
    run: PlannedRun, *, accuracy: float, pass_at_4: float, steps: int = STEPS
) -> None:
    """What a run of so many steps leaves: entropy 1/step, 8 prompts and 2 seconds a step."""
    (run.folder / "hf" / "final").mkdir(parents=True)
    (run.folder / "config.yaml").write_text(to_yaml(run.config))
    logger = JsonlLogger(run.folder, print)
    logger.log(0, {"eval/avg_at_k": 0.125, "eval/pass_at_4": 0.25})
    for step in range(1, steps + 1):
        logger.log(
            step,
            {
                "loss/total": 0.0,
                "entropy/mean": 1 / step,
                "reward/accuracy": 0.5,
                "rollout/response_tokens_mean": 10.0,
                "rollout/drawn": 8,
                "time/step_s": 2.0,
            },
        )
    logger.log(steps, {"eval/avg_at_k": accuracy, "eval/pass_at_4": pass_at_4})
    logger.close()


def write_pairs_base(folder: Path) -> Path:
    """A config of `prefer` whose model and pairs are there; evaluated at its end."""
    write_base(folder)
    data = {"path": str(folder / "problems.jsonl"), "max_tokens": 64}
    tree = {
        "model": {"path": str(folder / "model")},
        "data": data,
        "prefer": {"steps": STEPS},
        "eval": {"data": data},
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def write_finished_on_pairs(run: PlannedRun, *, accuracy: float, steps: int = STEPS) -> None:
    """What a run on pairs of so many steps leaves."""
    (run.folder / "hf" / "final").mkdir(parents=True)
    (run.folder / "config.yaml").write_text(to_yaml(run.config))
    logger = JsonlLogger(run.folder, print)
    for step in range(1, steps + 1):
        logger.log(step, {"loss/total": 0.5, "pairs/accuracy": 0.5, "time/step_s": 2.0})
    logger.log(steps, {"eval/pairs_accuracy": accuracy, "eval/pairs_loss": 1 - accuracy})
    logger.close()
