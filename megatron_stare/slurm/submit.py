"""A job's script on disk, and in Slurm's queue."""

from __future__ import annotations

import subprocess
from pathlib import Path

from megatron_stare.errors import UserError
from megatron_stare.system.folders import replacing_file


def write_script(path: Path, script: str) -> None:
    """For its owner alone: `slurm.environment` may hold keys and passwords."""
    with replacing_file(path) as unfinished:
        unfinished.touch(mode=0o600)
        unfinished.chmod(0o600)  # Of one that a process was killed over.
        unfinished.write_text(script)


def submit(path: Path) -> int:
    """Have Slurm queue it; the exit code of sbatch.

    Raises:
        UserError: there is no sbatch.
    """
    try:
        done = subprocess.run(["sbatch", str(path)], check=False)
    except FileNotFoundError:
        raise UserError("sbatch: no such command, expected to be on a Slurm cluster") from None
    return done.returncode
