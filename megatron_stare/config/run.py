"""A run: where it is, what it logs, what it saves."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from megatron_stare.system.settings import Settings
from megatron_stare.system.values import Count, CountOrZero, FilePath, Seconds


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
    """Seconds from SIGTERM or SIGUSR1 until the process ends even if it has not saved."""


class LogConfig(Settings):
    """Where metrics go, besides metrics.jsonl and the console."""

    tensorboard: bool = False
    """Write TensorBoard events."""
    wandb_project: str | None = Field(default=None, min_length=1)
    """Weights & Biases project; None is off."""
    wandb_mode: Literal["online", "offline"] = "online"
    """`offline` writes locally, for `wandb sync`."""
    progress: bool = True
    """Progress bars on a terminal."""
    dump_samples: bool = True
    """Write every sample to samples/step_N.jsonl."""
