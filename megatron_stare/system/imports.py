"""What a user names by `package.module:name`."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def import_own(name: str) -> Any:
    """A class or function by `package.module:name`, of what Python finds or the working directory.

    Raises:
        ValueError: it cannot be had; the message says why.
    """
    module, _, attribute = name.partition(":")
    if (here := os.getcwd()) not in sys.path:  # As for a verifier; behind all that is installed.
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # A script without a guard exits.
        raise ValueError(f"{type(error).__name__}: {error}") from None
