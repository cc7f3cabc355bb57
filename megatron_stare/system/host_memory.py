"""Memory of the host for large copies."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def host_memory(num_bytes: int) -> Tensor:
    """uint8 [num_bytes], not initialised, in huge pages where the system has them.

    The first use of small pages takes four times as long. torch asks for huge ones only where an
    environment variable says so, numpy always does.
    """
    return torch.from_numpy(np.empty(num_bytes, np.uint8))
