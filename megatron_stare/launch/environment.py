"""Environment variables that are no rank's: read here, and set for the processes that we start."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from megatron_stare.errors import UserError


def environment_with(
    changes: Mapping[str, str], *, unless_set: Mapping[str, str] | None = None
) -> dict[str, str]:
    """That of a process to be started: this one's, what is changed, and what it may have lacked."""
    return {**(unless_set or {}), **os.environ, **changes}


def preloading(library: Path) -> dict[str, str]:
    """The change that has a process load a library before all others, and before those it would."""
    return {"LD_PRELOAD": f"{library} {os.environ.get('LD_PRELOAD', '')}".rstrip()}


def visible_gpus(count: int) -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs of this process: numbers, or UUIDs."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if given is None else given.split(",")
    return [name.strip() for name in names][:count]


def check_segments(asked_by: str) -> None:
    """See that this environment, a server's or that of a trainer beside servers, suits turns.

    SGLang's memory saver cannot take back expandable segments, and would not say so.

    Raises:
        UserError: it asks PyTorch for such segments; `asked_by` is what excludes them.
    """
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        if re.search(r"expandable_segments:\s*True", os.environ.get(name, ""), re.IGNORECASE):
            raise UserError(
                f"{name}={os.environ[name]} with {asked_by}: memory that is given up would stay "
                "taken, expected an environment without expandable segments"
            )


def read_api_key(variable: str | None, *, option: str) -> str | None:
    """An API key, which configs and commands only name; None where none is named.

    Raises:
        UserError: the variable is not set; `option` is what named it.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "")
    if not key:
        raise UserError(f"{option}: the environment has no {variable}, expected the API key in it")
    return key
