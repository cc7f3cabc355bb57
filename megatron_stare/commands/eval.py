"""`megatron-stare eval`: avg@k, pass@k and maj@k of a Hugging Face folder."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from megatron_stare.checkpoint.policies import find_policy
from megatron_stare.checkpoint.run_folder import CONFIG
from megatron_stare.commands.arguments import path
from megatron_stare.commands.of_config import take_config
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.evaluation import EvalConfig
from megatron_stare.config.loops import LOOPS
from megatron_stare.config.rollout import EngineConfig
from megatron_stare.config.run import LogConfig, RunConfig
from megatron_stare.config_io import load_config, load_one_of, sections_of
from megatron_stare.errors import UserError
from megatron_stare.system.values import expand


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`eval [CONFIG] [--run RUN [--policy NAME]] [section.key=value ...]`."""
    take_config(command, _eval, EvalConfig, without_file="the config.yaml of --run")
    command.add_argument(
        "--run", dest="of_run", type=path, metavar="RUN", help="evaluate the policy of this run"
    )
    command.add_argument(
        "--policy",
        metavar="NAME",
        help="which folder of the run's hf/, such as step_000100 (default: final, else the newest)",
    )


def _eval(arguments: argparse.Namespace) -> int:
    source, overrides = arguments.config, list(arguments.overrides)
    if source is not None and "=" in source and arguments.of_run is not None:
        source, overrides = None, [source, *overrides]
    config, step = evaluation_of(
        None if source is None else Path(expand(source)),
        overrides,
        run=arguments.of_run,
        policy=arguments.policy,
    )
    from megatron_stare.evaluate_folder import evaluate_folder

    evaluate_folder(config, step=step)
    return 0


def evaluation_of(
    source: Path | None,
    overrides: Sequence[str] = (),
    *,
    run: Path | None = None,
    policy: str | None = None,
) -> tuple[EvalConfig, int]:
    """What is to be evaluated, and the step that its weights are of.

    The config is that of an evaluation, or of a training run: then every section is what it is in
    training. With `run` the policy is that run's, wherever the config is from. Of either the
    outcome goes to `eval/NAME` in the run's folder, where no override says `run.dir`.

    Raises:
        UserError: neither is given, the config cannot be, or the run has no such policy.
    """
    if policy is not None and run is None:
        raise UserError(f"--policy {policy}: is one of a run, expected --run RUN, too")
    if source is None and run is None:
        raise UserError("eval: expected CONFIG.yaml, or --run RUN")
    found = None if run is None else find_policy(run, policy)
    source = run / CONFIG if source is None and run is not None else source
    assert source is not None
    is_of_training = "data" in sections_of(source)
    if is_of_training:
        config = _as_in_training(source, overrides)
    else:
        given = [] if found is None else [f"model.path={json.dumps(str(found.folder))}"]
        config = load_config(EvalConfig, source, [*given, *overrides])
    if found is not None:
        model = config.model.model_copy(update={"path": found.folder})
        config = config.model_copy(update={"model": model})
    is_said = any(override.startswith("run.dir=") for override in overrides)
    if (run is not None or is_of_training) and not is_said:
        folder = (run or config.run.dir) / "eval" / config.model.path.name
        config = config.model_copy(update={"run": config.run.model_copy(update={"dir": folder})})
    if run is None or found is None:
        return config, 0
    return config, load_one_of(LOOPS, run / CONFIG).loop.steps if found.step is None else found.step


def _as_in_training(source: Path, overrides: Sequence[str]) -> EvalConfig:
    """The evaluation that a training run makes, but that trackers are the run's own."""
    train = load_one_of(LOOPS, source, overrides)
    if not isinstance(train, TrainConfig):
        raise UserError(
            f"{source}: is of {train.command}, which asks no problems; expected a config of eval "
            "or of train"
        )
    kept = {name: getattr(train, name) for name in ("model", "reward", "workflow", "tools")}
    rollout = {key: getattr(train.rollout, key) for key in EngineConfig.model_fields}
    return EvalConfig(
        **kept,
        environments=train.environments,
        run=RunConfig(dir=train.run.dir, seed=train.run.seed),
        rollout=EngineConfig(**rollout),
        eval=train.eval,
        log=LogConfig(progress=train.log.progress),
    )
