"""Which checkpoint a run goes on from, and whether its config may."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch.distributed as dist

from megatron_stare.checkpoint.folders import (
    CHECKPOINTS,
    RUN_STATE,
    Checkpoint,
    find_damage,
    open_checkpoint,
    steps_of,
)
from megatron_stare.checkpoint.run_folder import HF
from megatron_stare.errors import UserError
from megatron_stare.launch.rank_zero import common_error, from_rank_zero
from megatron_stare.model_shape import ModelShape
from megatron_stare.system.nested import dotted
from megatron_stare.system.untrusted import load_data
from megatron_stare.weights.torch_dist import check_objects


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a run goes on from.

    changes  how its config differs from that of the run that saved, a line a key
    state    plain values, from rank 0
    """

    checkpoint: Checkpoint
    changes: list[str]
    state: dict[str, Any]

    @contextmanager
    def reading(self) -> Iterator[dict[str, Any]]:
        """The state, for a part of the run to take its own from.

        Raises:
            UserError: from the block, where the state is not as the part has saved it.
        """
        try:
            yield self.state
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            raise common_error(
                f"{self.checkpoint.folder / RUN_STATE}: no state that this version can go on with "
                f"({error!r:.200}); expected one of a run: go on with the version that saved it, "
                "or remove the checkpoint to go on from the one before"
            ) from error


Resume = Literal["auto", "never", "must"]
_FIXED = ("model.dtype", "run.seed", "rollout.samples_per_prompt", "data.max_prompt_tokens")
"""Keys that a run keeps. What data it reads is known by the digest of the rows."""
_FIXED_INPUTS = ("tokenizer",)
"""Of what a run reads in the model's folder: what it keeps. A change of the rest is said."""
_COMMANDS = ("train", "sft", "prefer")
"""Each has a section of its name in its config."""
_UNSAID = ("run.resume",)
"""Keys whose change says nothing."""


def resume(
    run_dir: Path,
    config: Mapping[str, Any],
    model: Mapping[str, Any],
    report: Callable[[str], None],
) -> Resumed | None:
    """What to go on from, as the config says; None for a run from the start. Collective.

    Args:
        config: resolved, as plain values.
        model: the shape of the network, as plain values.

    Raises:
        UserError: as `find_checkpoint` and `check_config`; with `never` there is a model; or the
            checkpoint holds more than data.
    """
    root = run_dir / CHECKPOINTS
    checkpoint = find_checkpoint(
        root, config["run"]["resume"], checksums=config["checkpoint"]["verify"], report=report
    )
    if checkpoint is None:
        if config["run"]["resume"] == "never":
            from_rank_zero(lambda: _check_no_model(run_dir))
        return None
    changes = check_config(checkpoint, config, model)
    from_rank_zero(lambda: check_objects(checkpoint.folder))
    state = load_data(checkpoint.folder / RUN_STATE, checkpoint.folder / RUN_STATE)
    return Resumed(checkpoint, changes, state)


def find_checkpoint(
    root: Path, resume: Resume, *, checksums: bool, report: Callable[[str], None]
) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None for a run from the start. Collective.

    Damaged ones are reported; the ranks share the reading.

    Raises:
        UserError: there is none with `must`, there is one with `never`, or all are damaged.
    """
    steps = from_rank_zero(lambda: steps_of(root))
    if steps and resume == "never":
        raise UserError(
            f"{root}: has a checkpoint of step {steps[0]}, and run.resume=never; "
            "expected another run.dir, or run.resume=auto"
        )
    for step in steps:
        damage = _damage_on_any_rank(root, step, checksums)
        if damage is None:
            return open_checkpoint(root, step)
        report(f"checkpoint of step {step} is damaged: {damage}")
    if steps:
        raise UserError(
            f"{root}: none of {len(steps)} checkpoints is whole (see above); expected one to go on "
            "from, or another run.dir"
        )
    if resume == "must":
        raise UserError(f"{root}: no checkpoint, and run.resume=must; expected one to go on from")
    return None


def _check_no_model(run_dir: Path) -> None:
    models = sorted(path for path in (run_dir / HF).glob("*") if path.is_dir())
    if models:
        raise UserError(
            f"{models[0]}: the model of a run that stands there, and run.resume=never; expected "
            "another run.dir, or run.resume=auto, which begins anew where there is no checkpoint"
        )


def network_of(shape: ModelShape) -> dict[str, Any]:
    """What a checkpoint knows of the network, as plain values."""
    network = {name: value for name, value in asdict(shape).items() if name != "raw"}
    return json.loads(json.dumps(network))  # As a manifest gives it back.


def _damage_on_any_rank(root: Path, step: int, checksums: bool) -> str | None:
    rank, size = dist.get_rank(), dist.get_world_size()
    try:
        checkpoint = open_checkpoint(root, step)
        damage = find_damage(checkpoint, sorted(checkpoint.files)[rank::size], checksums=checksums)
    except ValueError as error:
        damage = str(error)
    found: list[str | None] = [None] * size
    dist.all_gather_object(found, damage)
    return next((damage for damage in found if damage is not None), None)


def check_config(
    checkpoint: Checkpoint, config: Mapping[str, Any], model: Mapping[str, Any]
) -> list[str]:
    """How the config differs from the checkpoint's, a line a key.

    Args:
        config: resolved, as plain values.
        model: the shape of the network, as plain values.

    Raises:
        UserError: in a way that the run cannot go on with.
    """
    configs = (checkpoint.manifest.get("config", {}), config)
    before, now = (dict(dotted(config)) for config in configs)
    changed = {
        key: (before.get(key), now.get(key))
        for key in (*before, *(now.keys() - before.keys()))
        if before.get(key) != now.get(key) and key not in _UNSAID
    }
    refused = {key: change for key, change in changed.items() if key in _FIXED}
    command_before, command = (_command_of(config) for config in configs)
    if command_before != command:
        refused["the command"] = command_before, command
    saved_model = checkpoint.manifest.get("model", {})
    for key, value in model.items():
        if saved_model.get(key) != value:
            refused[f"{config['model']['path']}: {key}"] = (saved_model.get(key), value)
    if refused:
        found = "; ".join(f"{key} was {old}, is {new}" for key, (old, new) in refused.items())
        raise UserError(
            f"{checkpoint.folder}: cannot go on from here: {found}; expected the same, or "
            "another run.dir"
        )
    steps = now.get(f"{command}.steps", checkpoint.step)
    if steps < checkpoint.step:
        raise UserError(
            f"{checkpoint.folder}: the run is past the end that {command}.steps={steps} "
            f"gives it; expected {checkpoint.step} or more, or another run.dir"
        )
    return [f"{key}: {old} -> {new}" for key, (old, new) in sorted(changed.items())]


def _command_of(config: Mapping[str, Any]) -> str:
    return next((name for name in _COMMANDS if name in config), _COMMANDS[0])


def check_inputs(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How what a run reads besides weights and data differs; a line a thing.

    >>> check_inputs({"tokenizer": "3fa1", "stop_ids": [1]}, {"tokenizer": "3fa1", "stop_ids": [2]})
    ['stop_ids: [1] -> [2]']

    Args:
        before: as a checkpoint has it, as plain values; empty in one of an earlier version.

    Raises:
        UserError: it is another tokenizer.
    """
    changed = {
        name: (old, now.get(name)) for name, old in sorted(before.items()) if old != now.get(name)
    }
    for name in _FIXED_INPUTS:
        if name in changed:
            old, new = changed[name]
            raise UserError(
                f"model.path: its {name} is not the one that the run began with ({name} was {old}, "
                f"is {new}); expected the same, or another run.dir"
            )
    return [f"{name}: {old} -> {new}" for name, (old, new) in changed.items()]
