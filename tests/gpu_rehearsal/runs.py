"""A small run for every way of training, and its config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.models import make_hf_folder


def train_config(folder: Path, **changes: Any) -> Path:
    """Two steps of STARE with a KL penalty, a prepass, a checkpoint a step and an export."""
    problems = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(4) for b in range(4)]
    return _write(
        folder,
        problems,
        {
            "data": {"path": str(folder / "data.jsonl"), "max_prompt_tokens": 16},
            "rollout": {
                **{"prompts_per_step": 2, "samples_per_prompt": 4},
                **{"max_response_tokens": 8, "max_rounds": 1},
            },
            "reward": {
                "kind": "tests.gpu_rehearsal.verifier:share_of_letters",
                "workers": 1,
            },
            "algorithm": {"stare": {"target_entropy": 2.0}, "terms": [{"kl": {"coef": 0.01}}]},
            "train": {"steps": 2},
            "checkpoint": {"every": 1},
            **changes,
        },
    )


def sft_config(folder: Path, **changes: Any) -> Path:
    """Three updates on short examples."""
    sums = [{"prompt": f"{a}+{b}=", "response": str(a + b)} for a in range(6) for b in range(6)]
    return _write(
        folder,
        sums,
        {
            "data": {"path": str(folder / "data.jsonl"), "max_tokens": 32},
            "sft": {"steps": 3, "examples_per_step": 12},
            **changes,
        },
    )


def _write(folder: Path, rows: list[dict[str, str]], config: dict[str, Any]) -> Path:
    model = folder / "model"
    if not model.exists():
        make_hf_folder(model, "qwen3", max_shard_size="1GB")
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "config.yaml"
    everywhere = {
        "model": {"path": str(model), "dtype": "bfloat16"},
        "optim": {"lr": 1e-3},
        "log": {"progress": False},
    }
    path.write_text(yaml.safe_dump(everywhere | config))
    return path
