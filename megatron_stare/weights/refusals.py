"""What transformers raises on a folder that it does not take, as an error of the user's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from megatron_stare.errors import UserError


@contextmanager
def refusals_named(path: Path) -> Iterator[None]:
    """Whatever transformers and torch raise of a model's files is said of `path`, in one line.

    Raises:
        UserError: they refuse it; what is lacking memory is not of the file's doing.
    """
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{path}: refused by transformers: {reason}") from error
