"""What all sections of a config have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of keys that rejects what it does not know; docstrings are the help text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
