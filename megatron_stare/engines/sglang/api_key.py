"""The API key of servers and router: named in configs and commands, never shown."""

from __future__ import annotations

import os

from megatron_stare.errors import UserError


def read_api_key(variable: str | None, *, option: str) -> str | None:
    """The value of an environment variable; None where none is named.

    Raises:
        UserError: the variable is not set; `option` is what named it.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "")
    if not key:
        raise UserError(f"{option}: the environment has no {variable}, expected the API key in it")
    return key
