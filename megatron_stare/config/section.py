"""What all sections of a config have in common."""

from __future__ import annotations

from megatron_stare.algorithms.settings import Settings


class Section(Settings):
    """A section of the config of a command."""
