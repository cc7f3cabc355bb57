"""`megatron-stare eval`: avg@k, pass@k and maj@k of a Hugging Face folder on sets of problems.

run.dir/
  eval.json            the metrics
  eval_samples.jsonl   every sample; of several sets eval_samples/NAME.jsonl
  metrics.jsonl        the metrics as a run logs them, and config.yaml: `report` reads both
  bank/                what is sampled so far: the same command goes on with it
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_stare.checkpoint.folders import CHECKPOINTS
from megatron_stare.checkpoint.run_folder import CONFIG, HF
from megatron_stare.config.evaluation import EvalConfig, key_of
from megatron_stare.config_io import to_yaml
from megatron_stare.engines.embedded import EmbeddedEngine
from megatron_stare.engines.engine import Engine
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.errors import UserError
from megatron_stare.observe.console import print_table
from megatron_stare.observe.held_out import held_out_table
from megatron_stare.observe.loggers import Loggers, open_loggers
from megatron_stare.rollout.bank import Bank
from megatron_stare.rollout.banked import BankedEngine, BankedScorer, missing
from megatron_stare.rollout.dump import dump_samples
from megatron_stare.rollout.evaluate import Evaluation, evaluate, metrics_of
from megatron_stare.rollout.groups import Judge
from megatron_stare.rollout.lineage import code_of_agent, code_of_tools, fingerprint
from megatron_stare.rollout.of_folder import Asked, FolderRollouts, open_folder_rollouts
from megatron_stare.system.folders import write_whole
from megatron_stare.system.output import check_folder, make_folder, writing

_OF_SAMPLES = {"model", "rollout", "reward", "workflow", "tools", "environments"}
"""Sections that samples and verdicts depend on."""


def evaluate_folder(config: EvalConfig, *, step: int = 0) -> dict[str, float]:
    """Sample with the config's engine, judge, and write the outcome to `run.dir`.

    Args:
        step: that the folder's weights are of, where it is of a run.

    Raises:
        UserError: bad input.
    """
    folder, parts = config.run.dir, config.eval.parts
    if not parts:
        raise UserError("eval.data: missing, expected the problems to evaluate on, or eval.sets")
    _check_output(folder)
    asked = {
        f"{key_of(name)}.data": Asked(one.data, one.max_response_tokens)
        for name, one in parts.items()
    }
    with open_loggers(config.log) as loggers:
        with open_folder_rollouts(config, asked, report=loggers.message, version=step) as rollouts:
            make_folder(folder, "run.dir")
            found = {
                name: _evaluate(config, name, rollouts, step=step, loggers=loggers)
                for name in parts
            }
        metrics = metrics_of(found)
        with writing(folder, "run.dir"):
            for name, evaluation in found.items():
                path = folder / (f"eval_samples/{name}.jsonl" if name else "eval_samples.jsonl")
                dump_samples(path, [], [], evaluation.groups)
            write_whole(folder / "eval.json", json.dumps(metrics, indent=2) + "\n")
            write_whole(folder / CONFIG, to_yaml(config))
            loggers.open_files(config.log, folder, config.model_dump(mode="json"))
        loggers.log(step, metrics)
        print_table(loggers.console, *held_out_table(metrics))
        loggers.message(f"{folder}: megatron-stare report {folder} draws it")
    return metrics


def _check_output(folder: Path) -> None:
    check_folder(folder, "run.dir")
    for name in (CHECKPOINTS, HF):
        if (folder / name).exists():
            raise UserError(
                f"run.dir={folder}: has {name}/, so that it is a training run's; expected a folder "
                "of the evaluation's own, such as one in it"
            )


def _evaluate(
    config: EvalConfig, name: str, rollouts: FolderRollouts, *, step: int, loggers: Loggers
) -> Evaluation:
    """A set's samples, those of an earlier call among them, and what they come to."""
    one = config.eval.parts[name]
    problems = rollouts.problems(f"{key_of(name)}.data")
    total = len(problems[: one.max_prompts]) * one.samples_per_prompt
    with (
        _remembering(config, name, rollouts, step, loggers) as (player, judge),
        loggers.progress.phase(name or "evaluate", total) as advance,
    ):
        return evaluate(
            *(player, problems, judge, one),
            seed=config.run.seed,
            name=name,
            on_progress=advance,
        )


@contextmanager
def _remembering(
    config: EvalConfig, name: str, rollouts: FolderRollouts, step: int, loggers: Loggers
) -> Iterator[tuple[Engine, Judge]]:
    """What plays and judges a set, through the bank where sampling again costs anything."""
    if isinstance(rollouts.engine, ReplayEngine):
        yield rollouts.player, rollouts.scorer
        return
    folder = config.run.dir / "bank" / name
    bank = Bank(folder, _lineage(config, name, rollouts), loggers.message)
    bank.begin(step, {"set": name})
    engine = rollouts.engine
    try:
        yield (
            BankedEngine(
                rollouts.player,
                bank,
                max_staleness=0,
                remaining=engine.remaining if isinstance(engine, EmbeddedEngine) else missing,
                report=loggers.message,
            ),
            BankedScorer(rollouts.scorer, bank),
        )
    finally:
        bank.close()


def _lineage(config: EvalConfig, name: str, rollouts: FolderRollouts) -> str:
    """A fingerprint of all that a set's samples and verdicts depend on."""
    sections = config.model_dump(mode="json", include=_OF_SAMPLES)
    del sections["rollout"]["servers"], sections["reward"]["workers"]
    problems = [p.state_dict() for p in rollouts.sets[f"{key_of(name)}.data"].values()]
    return fingerprint(
        *(config.model.path, config.run.seed, sections, problems),
        config.eval.parts[name].model_dump(mode="json"),
        *(rollouts.scorer.code, rollouts.versions),
        code_of_tools(config.tools) | code_of_agent(config.workflow.agent),
    )
