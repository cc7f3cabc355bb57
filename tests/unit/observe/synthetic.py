"""Run folders that look like those of real runs: curves with noise, evaluations, samples."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from megatron_stare.observe.history import JsonlLogger


def write_run(
    folder: Path, *, stare: bool = False, seed: int = 1, steps: int = 60, target: float = 0.5
) -> Path:
    """A run of `steps` steps, evaluated every 10, with samples of the first and the last step."""
    folder.mkdir(parents=True)
    config = {
        "run": {"dir": str(folder), "seed": seed},
        "rollout": {"samples_per_prompt": 8, "dynamic_sampling": True},
        "stare": {"enabled": stare, "variant": "C2", "target_entropy": target},
        "train": {"steps": steps},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    noise = np.random.default_rng(seed)
    logger = JsonlLogger(folder, print)
    for step in range(steps + 1):
        if step:
            logger.log(step, train_metrics(step / steps, noise, stare=stare, target=target))
        if step % 10 == 0:
            logger.log(step, eval_metrics(step / steps, noise, stare=stare))
    logger.close()
    write_samples(folder, [1, steps])
    return folder


def write_metrics(folder: Path, by_step: dict[int, dict[str, float]], config: str = "{}") -> Path:
    """A run with these metrics and nothing else."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    logger = JsonlLogger(folder, print)
    for step, metrics in by_step.items():
        logger.log(step, metrics)
    logger.close()
    return folder


def train_metrics(progress: float, noise, *, stare: bool, target: float) -> dict[str, float]:
    start = 1.2
    floor = target if stare else 0.12
    entropy = floor + (start - floor) * math.exp(-5 * progress) + 0.02 * noise.normal()
    accuracy = 0.35 + 0.45 * (1 - math.exp(-3 * progress)) + 0.03 * noise.normal()
    length = 40 - 10 * progress + noise.normal()
    share = 0.5 * accuracy
    gate = float(stare and entropy < target)
    return {
        "entropy/mean": entropy,
        "entropy/surprisal_mean": entropy + 0.02 * noise.normal(),
        "stare/gate": gate,
        "stare/target": target if stare else math.nan,
        "stare/w": 1 + 0.2 * progress if stare else 1.0,
        "stare/m": 1 - 0.2 * progress if stare else 1.0,
        "stare/threshold_positive": 2.5 * entropy,
        "stare/threshold_negative": 2.8 * entropy if progress > 0.1 else math.nan,
        "stare/selected_share": 0.1 if gate else 0.0,
        "quadrant/pos_high_share": 0.2 * share,
        "quadrant/pos_low_share": 0.8 * share,
        "quadrant/neg_high_share": 0.25 * (1 - share),
        "quadrant/neg_low_share": 0.75 * (1 - share),
        "quadrant/pos_high_entropy": 2.0 * entropy,
        "quadrant/pos_low_entropy": 0.5 * entropy,
        "quadrant/neg_high_entropy": 2.2 * entropy,
        "quadrant/neg_low_entropy": 0.6 * entropy,
        "reward/mean": accuracy - 0.02,
        "reward/accuracy": accuracy,
        "reward/solve_all": 0.4 * progress,
        "reward/solve_none": 0.3 * (1 - progress),
        "reward/signal_share": 0.7 - 0.1 * progress,
        "reward/distinct_answers": 5 - 3 * progress,
        "reward/tail_share": 0.02 * progress,
        "reward/failures": 0,
        "rollout/drawn": 64 + int(40 * progress) + 3,
        "rollout/completed": 64,
        "rollout/filtered": int(40 * progress),
        "rollout/failed": 0,
        "rollout/aborted": 3,
        "rollout/rounds": 1 + int(2 * progress),
        "rollout/response_tokens_mean": length,
        "rollout/response_tokens_p95": 1.4 * length,
        "rollout/truncated_share": 0.05 * (1 - progress),
        "loss/total": 0.01 * noise.normal(),
        "loss/clip_low_share": 0.0,
        "loss/clip_high_share": 0.001,
        "loss/dual_clip_share": 0.0,
        "mismatch/kl": 1e-6,
        "mismatch/mean": 1e-4 * abs(noise.normal()),
        "mismatch/max": 2e-3 * abs(noise.normal()),
        "mismatch/p999": 1e-3 * abs(noise.normal()),
        "mismatch/ess": 1 - 1e-6 * abs(noise.normal()),
        "mismatch/corrected_share": 0.0,
        "mismatch/correction_mean": 1.0,
        "optim/grad_norm": math.exp(0.4 * noise.normal()),
        "optim/lr": 1e-3 * min(1, 10 * progress),
        "optim/skipped": 0,
        "time/generate_s": 2 + 0.2 * noise.random(),
        "time/prepass_s": 0.4,
        "time/update_s": 1.5,
        "time/sync_s": 0.1,
        "time/step_s": 4.5,
        "perf/tokens_per_s": 15_000 + 500 * noise.normal(),
    }


def eval_metrics(progress: float, noise, *, stare: bool) -> dict[str, float]:
    single = 0.34 + 0.42 * (1 - math.exp(-3 * progress)) + 0.01 * noise.normal()
    spread = 0.5 if stare else 0.5 - 0.25 * progress
    passes = {f"eval/pass_at_{k}": 1 - (1 - single) * k**-spread for k in (1, 2, 4, 8, 16)}
    return passes | {"eval/avg_at_k": single, "eval/response_tokens_mean": 35.0}


def write_samples(
    folder: Path,
    steps: list[int],
    response: str = "3 + 4 = 7\nso \\boxed{7}",
    **fields: Any,
) -> None:
    (folder / "samples").mkdir(exist_ok=True)
    for step in steps:
        samples = [
            {
                "prompt": f"What is 3 + {problem}?",
                "response": response,
                "reward": 1.0 - index,
                "correct": 1.0 - index,
                "finish_reason": "length" if index else "stop",
                "token_ids": [1, 2, 3],
                **fields,
            }
            for problem in range(4, 8)
            for index in range(2)
        ]
        lines = "".join(json.dumps(sample) + "\n" for sample in samples)
        (folder / "samples" / f"step_{step:06d}.jsonl").write_text(lines)
