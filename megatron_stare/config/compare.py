"""Methods and variants of one config, over seeds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from megatron_stare.system.nested import dotted
from megatron_stare.system.settings import Settings
from megatron_stare.system.values import FilePath

_NAME = re.compile(r"\w[\w.-]{0,79}", re.ASCII)
_OWN = ("run.dir", "run.seed", "run.resume")
"""Keys of a run that the comparison sets."""

_MOST_RUNS = 10_000

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Jobs = Annotated[int, Field(ge=1, le=4096)]


class CompareConfig(Settings):
    """`megatron-stare compare`: methods and variants of one config, over seeds."""

    base: FilePath
    """The config that every run differs from: of `megatron-stare train`, or of `sft` or `prefer`,
    whose section it then has."""
    dir: FilePath = Path("runs/compare")
    """Folder of the comparison: its table and figure, and a folder NAME-seedN for each run."""
    seeds: tuple[Seed, ...] = Field(min_length=1, max_length=10_000)
    """`run.seed` of the runs of each method: differences to the baseline are paired over them."""
    methods: tuple[str, ...] = ()
    """Methods by name (`megatron-stare methods`), each the base with that `algorithm.method`."""
    variants: dict[str, dict[str, Any]] = Field(default={})
    """Further columns by a name of your own: what is different from the base, in sections or as
    dotted keys."""
    settings: dict[str, Any] = Field(default={})
    """What every run has different from the base; `{seed}`, here and in variants, is the run's
    seed: `model.path: runs/sft-seed{seed}/hf/final`."""
    baseline: str | None = None
    """The method or variant that the others are compared with; None is the first."""
    jobs: Jobs | None = None
    """Runs at a time on this machine; None is one a core, or one a GPU."""

    @property
    def arms(self) -> dict[str, dict[str, Any]]:
        """What is different from the base, by the name of the method or variant."""
        methods = {name: {"algorithm": {"method": name}} for name in self.methods}
        return {**methods, **self.variants}

    @property
    def baseline_name(self) -> str:
        """Of the method or variant that the others are compared with."""
        return self.baseline or next(iter(self.arms))

    def overrides(self, name: str, seed: int) -> list[str]:
        """What a run has different from the base, as overrides of the command line."""
        of_the_run = {"run.dir": self.folder(name, seed), "run.seed": seed, "run.resume": "auto"}
        settings = [*self.settings_of(name), *_overrides(of_the_run)]
        return [text.replace("{seed}", str(seed)) for text in settings]

    def settings_of(self, name: str) -> list[str]:
        """What the runs of a method or variant have different from the base."""
        return [*_overrides(self.settings), *_overrides(self.arms[name])]

    def folder(self, name: str, seed: int) -> Path:
        """Of a run."""
        return self.dir / f"{name}-seed{seed}"

    @model_validator(mode="after")
    def _has_runs_of_different_names(self) -> CompareConfig:
        names = [*self.methods, *self.variants]
        if not names:
            raise ValueError("methods=[] and variants={}: expected some to compare")
        for name in names:
            if not _NAME.fullmatch(name) or re.search(r"-seed\d+$", name):
                raise ValueError(
                    f"{name!r}: expected a name of letters, digits, `_`, `.` and `-` that does not "
                    "end in -seedN: a run's folder is named so"
                )
            if names.count(name) > 1:
                raise ValueError(f"{name} stands twice among methods and variants")
        for seed in self.seeds:
            if self.seeds.count(seed) > 1:
                raise ValueError(f"seeds={list(self.seeds)}: {seed} stands twice")
        if len(names) * len(self.seeds) > _MOST_RUNS:
            raise ValueError(
                f"{len(names)} methods and variants over {len(self.seeds)} seeds: expected at most "
                f"{_MOST_RUNS:,} runs"
            )
        if self.baseline is not None and self.baseline not in names:
            raise ValueError(f"baseline={self.baseline!r}: expected one of {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _leaves_a_runs_own_keys_alone(self) -> CompareConfig:
        for place, settings in {"settings": self.settings, **self.variants}.items():
            keys = [key for key, _ in dotted(settings)]
            for key in keys:
                if key in _OWN:
                    raise ValueError(f"{place}: {key} is set by the comparison, found there too")
                if keys.count(key) > 1:
                    raise ValueError(f"{place}: {key} stands twice, dotted and in its section")
                if "=" in key:
                    raise ValueError(f"{place}: {key!r:.80}: expected a key, found a = in it")
        return self


def _overrides(settings: Mapping[str, Any]) -> list[str]:
    """`section.key=value` each; a text as it is, anything else as YAML has it."""
    return [
        f"{key}={value if isinstance(value, str | Path) else json.dumps(value)}"
        for key, value in dotted(settings)
    ]
