"""The folder of a run as a start finds it: seen without being touched, tidied when it is held."""

from __future__ import annotations

from pathlib import Path

from megatron_stare.checkpoint.folders import CHECKPOINTS, remove_unfinished
from megatron_stare.checkpoint.lock import RunLock
from megatron_stare.errors import UserError
from megatron_stare.observe.history import CUT_FILE_NAME, FILE_NAME
from megatron_stare.output import check_folder
from megatron_stare.weights.folders import remove

HF, SAMPLES, CONFIG = "hf", "samples", "config.yaml"
_FOLDERS = (CHECKPOINTS, HF, SAMPLES, "bank", "tensorboard", "wandb")
_FILES = (CONFIG, FILE_NAME, CUT_FILE_NAME)


def check_run_folder(folder: Path, lock: RunLock) -> None:
    """See, touching nothing, that a run can begin to write in its folder.

    Raises:
        UserError: it cannot be made or written, another run holds it, or it has a file where a run
            has a folder, or the other way round.
    """
    check_folder(folder, "run.dir")
    lock.check_free()
    for name in (*_FOLDERS, *_FILES):
        path = folder / name
        if path.exists() and path.is_dir() != (name in _FOLDERS):
            found, expected = ("folder", "file") if path.is_dir() else ("file", "folder")
            raise UserError(f"{path}: is a {found}; expected the {expected} of a run, or none")


def remove_leavings(folder: Path) -> None:
    """What a run has left that ended while it wrote: checkpoints, samples and models in the making.

    What they were to replace is there as it was.
    """
    for name in (CHECKPOINTS, SAMPLES):
        remove_unfinished(folder / name)
    for partial in (folder / HF).glob(".*.partial"):
        remove(partial)
