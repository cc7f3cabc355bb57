"""A job's script on disk, and in Slurm's queue."""

from __future__ import annotations

import subprocess
from pathlib import Path

from megatron_stare.errors import UserError


def write_script(path: Path, script: str) -> None:
    """For its owner alone: `slurm.environment` may hold keys and passwords."""
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(script)


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
