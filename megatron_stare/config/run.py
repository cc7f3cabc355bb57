"""A run: where it is, what it logs, what it saves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from megatron_stare.system.settings import Settings
from megatron_stare.system.values import Count, CountOrZero, FilePath, Seconds, matching


class RunConfig(Settings):
    """Identity of the run."""

    dir: FilePath = Path("runs/default")
    """Folder of everything the run writes: metrics, samples, models, report."""
    seed: int = Field(default=1, ge=-(2**63), lt=2**63)
    """Seed of data order, sampling and initialisation."""


class ResumableRunConfig(RunConfig):
    """Identity of a run that saves where it stands."""

    resume: Literal["auto", "never", "must"] = "auto"
    """`auto` goes on from the newest checkpoint in `dir` if there is one; `must` needs one; `never`
    refuses a folder that has one, or a model."""


class CheckpointConfig(Settings):
    """What a run needs to go on where it stopped, in `checkpoints/` of its folder."""

    every: CountOrZero = 20
    """Steps between checkpoints, and one at the end; 0 saves only when told to stop."""
    keep_last: Count = 2
    """Newest checkpoints that are kept."""
    keep_every: CountOrZero = 0
    """Checkpoints of every so many steps are kept as well; 0 keeps none of them."""
    asynchronous: bool = True
    """Write while training goes on."""
    verify: bool = True
    """Read a checkpoint's files for their checksums before it is used; sizes are always checked."""
    grace_s: Seconds = 120.0
    """Seconds from SIGTERM, SIGUSR1 or Ctrl-C until the process ends even if it has not saved."""

    @model_validator(mode="after")
    def _kept_are_made(self) -> CheckpointConfig:
        if self.keep_every and (self.every == 0 or self.keep_every % self.every):
            raise ValueError(
                f"keep_every={self.keep_every} with every={self.every}: expected a multiple of "
                "every, for else there is no checkpoint of that step to keep, or 0"
            )
        return self


def check_apart(run_dir: Path, model: Path) -> None:
    """See that a run does not write over the model that it begins with.

    Raises:
        ValueError: its folder is the model's, or has the model among what it writes.
    """
    ours, theirs = os.path.realpath(run_dir), os.path.realpath(model)
    if theirs == ours or theirs.startswith((f"{ours}/hf/", f"{ours}/checkpoints/")):
        raise ValueError(
            f"run.dir={run_dir} with model.path={model}: the run would write over the model that "
            "it begins with, expected another run.dir"
        )


OwnClass = Annotated[
    str, AfterValidator(matching(r"\w+(\.\w+)*:\w+", "a class of your own as package.module:Name"))
]


def _say_once(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """What one line says of a value that is neither kind."""
    try:
        return check(value)
    except ValidationError:
        raise ValueError(
            f"expected all, none, or a count of groups from 1 to 1,000,000,000, found {value!r:.80}"
        ) from None


TokenGroups = Annotated[Literal["all", "none"] | Count, WrapValidator(_say_once)]


class LogConfig(Settings):
    """Where metrics go, besides metrics.jsonl and the console."""

    tensorboard: bool = False
    """Write TensorBoard events."""
    wandb_project: str | None = Field(default=None, min_length=1)
    """Weights & Biases project; None is off."""
    wandb_mode: Literal["online", "offline"] = "online"
    """`offline` writes locally, for `wandb sync`."""
    wandb_entity: str | None = Field(default=None, min_length=1)
    """User or team of the project; None is W&B's own default."""
    wandb_group: str | None = Field(default=None, min_length=1)
    """Of runs that belong together, as those of several seeds."""
    wandb_tags: tuple[str, ...] = ()
    """To find runs by."""
    wandb_notes: str | None = Field(default=None, min_length=1)
    """What the run is for, in words."""
    trackers: tuple[OwnClass, ...] = ()
    """Trackers of your own, `package.module:Name` (docs/trackers.md)."""
    progress: bool = True
    """Progress bars on a terminal."""
    dump_samples: bool = True
    """Write every sample to samples/step_N.jsonl."""
    dump_tokens: TokenGroups = 1
    """Of how many groups of a step, its first ones, samples/step_N.parquet says what was decided of
    each token and what the update did to it; each costs a pass forward after the update."""
