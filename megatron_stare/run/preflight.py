"""What can be known of a run before there is any process of it."""

from __future__ import annotations

from contextlib import closing

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.loops import LoopConfig
from megatron_stare.config.prefer import PreferConfig
from megatron_stare.config.sft import SftConfig
from megatron_stare.data.tasks import check_task
from megatron_stare.errors import UserError
from megatron_stare.launch.topology import check_world_size
from megatron_stare.model_shape import ModelShape
from megatron_stare.rollout.workflow.opening import environments_of
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.rope_scaling import check_factors_agree


def check_run(config: LoopConfig, num_processes: int) -> None:
    """See that a run in so many processes can start: model, layout, lengths, engine, files.

    Raises:
        UserError: it cannot; the message names the key or file, the value, and what was expected.
    """
    if not isinstance(config, TrainConfig):
        _check_worked_run(config, num_processes)
        return
    check_fit(config, read_hf_config(config.model.path), num_processes)
    files = {"rollout.replay_path": config.rollout.replay_path}
    for key, data in config.data_by_key.items():
        for name, part in data.parts.items():
            files[f"{key}.sources.{name}.path" if name else f"{key}.path"] = part.path
    for key, path in files.items():
        if path is not None and not path.is_file():
            raise UserError(f"{key}={path}: no such file")
    for key, data in config.data_by_key.items():
        for name, source in data.sources.items():
            if source.task is not None:  # Asks a process of the package's own.
                check_task(source, f"{key}.sources.{name}")
    acting = environments_of(config.environments, config.workflow, config.data_by_key)
    if acting is not None:
        with closing(acting):
            acting.start()


def check_fit(config: LoopConfig, shape: ModelShape, num_processes: int) -> None:
    """See that layout, lengths and engine fit the model, and the layout the processes.

    Raises:
        UserError: they do not.
    """
    shape.check_parallel(config.parallel)
    check_world_size(num_processes, config.parallel)
    if isinstance(config, TrainConfig):
        check_model(config, shape)
    else:
        check_rows(config, shape)


def check_model(config: TrainConfig, shape: ModelShape) -> None:
    """See that the engine runs the model, and that it has positions for the longest sample.

    Raises:
        UserError: one of them does not hold.
    """
    if config.rollout.engine == "sglang" and shape.family == "qwen3_moe" and shape.tied:
        raise UserError(
            f"model.path={config.model.path}: config.json has tie_word_embeddings=true, expected "
            "false with rollout.engine=sglang: a server gives a Qwen3-MoE a head of its own"
        )
    if config.rollout.engine == "sglang":
        try:
            check_factors_agree(shape.rope_scaling)
        except ValueError as error:
            raise UserError(f"model.path={config.model.path}: config.json: {error}") from None
    shape.check_positions(
        "data.max_prompt_tokens + rollout.max_response_tokens",
        config.data.max_prompt_tokens + config.rollout.max_response_tokens,
    )


def _check_worked_run(config: SftConfig | PreferConfig, num_processes: int) -> None:
    """On given responses."""
    check_fit(config, read_hf_config(config.model.path), num_processes)
    for key, data in config.sets.items():
        if not data.path.is_file():
            raise UserError(f"{key}.path={data.path}: no such file")


def check_rows(config: SftConfig | PreferConfig, shape: ModelShape) -> None:
    """See that the model has positions for the longest row of every set.

    Raises:
        UserError: it has fewer.
    """
    for key, data in config.sets.items():
        shape.check_positions(f"{key}.max_tokens", data.max_tokens)
