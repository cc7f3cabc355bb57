"""The folder of a run as a start finds it: seen without being touched, tidied when it is held."""

from __future__ import annotations

import os
from pathlib import Path

from megatron_stare.checkpoint.folders import CHECKPOINTS, remove_unfinished
from megatron_stare.checkpoint.lock import LOCK, RunLock
from megatron_stare.errors import UserError
from megatron_stare.observe.history import CUT_FILE_NAME, FILE_NAME
from megatron_stare.system.folders import remove
from megatron_stare.system.output import check_folder, writing

HF, SAMPLES, CONFIG = "hf", "samples", "config.yaml"
_FOLDERS = (CHECKPOINTS, HF, SAMPLES, "bank", "tensorboard", "wandb")
_FILES = (LOCK, CONFIG, FILE_NAME, CUT_FILE_NAME)


def check_run_folder(folder: Path, lock: RunLock) -> None:
    """See, touching nothing, that a run can begin to write in its folder.

    Raises:
        UserError: it, or a part of it, cannot be made or written, another run holds it, or it has
            something else where a run has a file or a folder.
    """
    check_folder(folder, "run.dir")
    with writing(folder, "run.dir"):
        for name in (*_FOLDERS, *_FILES):
            if (folder / name).exists(follow_symlinks=False):  # A link to nothing counts.
                _check_part(folder / name, "folder" if name in _FOLDERS else "file")
    lock.check_free()


def _check_part(path: Path, kind: str) -> None:
    if not (path.is_dir() if kind == "folder" else path.is_file()):
        raise UserError(f"{path}: is no {kind}; expected the {kind} of a run, or none")
    if path.name != LOCK and not os.access(path, os.W_OK):  # Who holds it says more.
        raise UserError(f"{path}: cannot be written; expected a {kind} that the run can go on with")


def remove_leavings(folder: Path) -> None:
    """What a run has left that ended while it wrote: checkpoints, samples and models in the making.

    What they were to replace is there as it was.
    """
    for name in (CHECKPOINTS, SAMPLES):
        remove_unfinished(folder / name)
    for partial in (folder / HF).glob(".*.partial"):
        remove(partial)
