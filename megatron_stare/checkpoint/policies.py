"""The policies that a run has written: Hugging Face folders in its `hf/`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from megatron_stare.checkpoint.run_folder import HF
from megatron_stare.errors import UserError

FINAL = "final"
_STEP = re.compile(r"step_([0-9]{6,18})")


class Policy(NamedTuple):
    """A policy's folder; `step` is None of the one after the last step."""

    folder: Path
    step: int | None


def find_policy(run: Path, name: str | None = None) -> Policy:
    """The policy of this name in a run's folder; without one that after the last step, or else the
    newest.

    Raises:
        UserError: there is none.
    """
    folder = run / HF
    found = {path.name: path for path in folder.glob("*") if (path / "config.json").is_file()}
    steps = {each: int(match[1]) for each in found if (match := _STEP.fullmatch(each))}
    newest = [FINAL] if FINAL in found else sorted(steps, key=lambda each: steps[each])[-1:]
    wanted = [name] if name in found else newest if name is None else []
    if not wanted:
        there = ", ".join(sorted(found)) or "none"
        raise UserError(
            f"{folder}: expected {name or 'a policy'}, a Hugging Face folder, found {there}; a run "
            "writes one every train.save_every steps and one at its end, `megatron-stare convert "
            "megatron-to-hf` one of a checkpoint"
        )
    return Policy(found[wanted[0]], steps.get(wanted[0]))
