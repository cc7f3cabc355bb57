"""How long ranks wait for each other."""

from __future__ import annotations

from datetime import timedelta

COLLECTIVE_TIMEOUT = timedelta(hours=12)
"""In every process group of the trainers: they wait while rank 0 generates a batch, which may take
hours at 32k tokens, sends weights to servers, or writes a large model."""
