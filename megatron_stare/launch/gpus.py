"""The GPUs of this machine: used where they answer, never passed over in silence."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from megatron_stare.errors import UserError

_DRIVER = Path("proc/driver/nvidia/version")


def count_gpus(environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> int:
    """GPUs that this process sees; 0 stands for the CPU.

    Args:
        root: of the file system in which the kernel shows its devices.

    Raises:
        UserError: the machine has GPUs that this torch is built for, none is hidden, and CUDA does
            not answer: as with a driver that is older than torch's CUDA.
    """
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    devices = sorted(root.glob("dev/nvidia[0-9]*"))
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    is_wanted = visible is None or re.match(r"\s*(\d|GPU-|MIG-)", visible)
    if torch.version.cuda is None or not devices or not is_wanted:
        return 0
    raise UserError(
        f"/{devices[0].relative_to(root)} is there, and CUDA does not answer: the driver is "
        f"{_driver_version(root)}, expected one for CUDA {torch.version.cuda} (of 13.0, 580 or "
        "later); CUDA_VISIBLE_DEVICES= takes the CPU"
    )


def _driver_version(root: Path) -> str:
    try:
        said = (root / _DRIVER).read_text()
    except OSError:
        return "not loaded"
    version = re.search(r"\b\d+\.\d+(\.\d+)?\b", said)
    return version[0] if version else "unknown"
