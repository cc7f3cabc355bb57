"""What every group of settings of a config has in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from megatron_stare.system.values import of_kind


class Settings(BaseModel):
    """A frozen group of keys, checked when it is made.

    Unknown keys, numbers that are not finite and values of another kind (see `of_kind`) are
    errors. Docstrings of the keys are the help text.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        return of_kind(value, cls.model_fields[str(info.field_name)].annotation)

    @classmethod
    def sections_beside(cls) -> Mapping[str, type[BaseModel]]:
        """Groups of keys that may stand in this one beside its fields, by their names."""
        return {}
