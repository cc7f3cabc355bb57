"""`megatron-stare eval`: avg@k and pass@k of a Hugging Face folder on a prompt set."""

from __future__ import annotations

import json

from megatron_stare.config.commands import EvalConfig
from megatron_stare.errors import UserError
from megatron_stare.observe.console import Progress, open_console
from megatron_stare.rollout.dump import dump_samples
from megatron_stare.rollout.evaluate import evaluate
from megatron_stare.rollout.of_folder import open_folder_rollouts
from megatron_stare.system.folders import write_whole
from megatron_stare.system.output import check_folder, make_folder, writing


def evaluate_folder(config: EvalConfig) -> dict[str, float]:
    """Sample with the embedded engine, judge, and write the outcome to the run's folder.

    `eval.json` holds the metrics, `eval_samples.jsonl` every sample.

    Raises:
        UserError: bad input.
    """
    if config.eval.data is None:
        raise UserError("eval.data: missing, expected the problems to evaluate on")
    check_folder(config.run.dir, "run.dir")
    console = open_console(quiet=False)
    progress = Progress(console, bars=config.log.progress)
    with (
        open_folder_rollouts(
            *(config.model, config.eval.data, config.reward, console),
            key="eval.data",
            seed=config.run.seed,
            max_batch_sequences=config.eval.max_batch_sequences,
            max_response_tokens=config.eval.max_response_tokens,
            workflow=config.workflow,
            tools=config.tools,
            environments=config.environments,
        ) as rollouts,
        progress.phase("evaluate") as advance,
    ):
        evaluation = evaluate(
            rollouts.player,
            rollouts.problems,
            rollouts.scorer,
            config.eval,
            seed=config.run.seed,
            on_progress=advance,
        )
    make_folder(config.run.dir, "run.dir")
    with writing(config.run.dir, "run.dir"):
        write_whole(config.run.dir / "eval.json", json.dumps(evaluation.metrics, indent=2) + "\n")
        dump_samples(config.run.dir / "eval_samples.jsonl", [], [], evaluation.groups)
    return evaluation.metrics
