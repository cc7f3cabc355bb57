"""Environments that a policy acts in, and the processes that they run in."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from megatron_stare.system.settings import Settings
from megatron_stare.system.values import PositiveWeight, Seconds, one_of_or_own

ENVIRONMENTS = {
    "tries": "megatron_stare.environments.tries:Tries",
    "textworld": "megatron_stare.environments.text_world:TextWorld",
    "openspiel": "megatron_stare.environments.board:Board",
    "openenv": "megatron_stare.environments.open_env:OpenEnv",
}
"""Classes by the names of `environment.name`; any other name is one of the user's."""

EnvironmentName = Annotated[
    str, AfterValidator(one_of_or_own(ENVIRONMENTS, "a class of your own as package.module:Name"))
]


class EnvironmentConfig(Settings):
    """What the prompts of a source are acted in (docs/environments.md)."""

    name: EnvironmentName
    """`tries`, `textworld`, `openspiel`, `openenv`, or your own as `package.module:Name`."""
    params: dict[str, Any] = Field(default={})
    """What it is made with."""

    @property
    def path(self) -> str:
        """The class, as `package.module:Name`."""
        return ENVIRONMENTS.get(self.name, self.name)

    @model_validator(mode="after")
    def _params_are_plain(self) -> EnvironmentConfig:
        try:
            json.dumps(self.params, allow_nan=False)
        except (ValueError, TypeError) as error:
            raise ValueError(f"params: expected numbers, texts and lists ({error})") from None
        return self


class EnvironmentsConfig(Settings):
    """The processes of all environments; each has many at a time."""

    workers: int = Field(default=2, ge=1, le=4096)
    """Processes."""
    deadline_s: Seconds = 60.0
    """Seconds that an environment may take for one step, or to begin."""
    memory_gib: PositiveWeight = 4.0
    """Memory that all environments of a process may take together."""
