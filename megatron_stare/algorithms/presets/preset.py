"""What a published method is: its parts with its authors' settings, and where they come from."""

from __future__ import annotations

from pydantic import Field

from megatron_stare.algorithms.filters import Mixed
from megatron_stare.algorithms.hooks import Filter, Term
from megatron_stare.algorithms.method import Method
from megatron_stare.algorithms.terms.clip import Clip


class Preset(Method):
    """A method, and what it is; of most, the clipped surrogate learns, and groups are mixed."""

    policy: dict[str, Term] = Field(default={"clip": Clip()})
    filters: dict[str, Filter] = Field(default={"mixed": Mixed()})
    about: str
    """One line; more, if need be; source and status."""
