"""Data sets."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from megatron_stare.config.algorithm import VerifierName
from megatron_stare.config.environments import EnvironmentConfig
from megatron_stare.system.settings import Settings
from megatron_stare.system.values import Count, FilePath, PositiveWeight, Share, matching

SOURCE_NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"
"""Of a source: it is part of the names of metrics, of uids, and of keys."""
TASK_SCORER = "megatron_stare.rewards.task_scorer:score"
"""What judges responses to a task of reasoning-gym."""

SourceName = Annotated[
    str, AfterValidator(matching(SOURCE_NAME, "a name of letters, digits, `_` and `-`"))
]
TaskName = Annotated[str, AfterValidator(matching(r"\w{1,80}", "the name of a task"))]


class SourceConfig(Settings):
    """One of several sets of problems: a file, a task of reasoning-gym, or an environment's."""

    path: FilePath | None = None
    """JSONL or Parquet file, one problem per row."""
    task: TaskName | None = None
    """Or a task of reasoning-gym, whose problems are generated."""
    environment: EnvironmentConfig | None = None
    """What is acted in: it begins with each problem of the file or task, or, where there is none,
    with seeds, and the prompts are what it says then (docs/environments.md)."""
    size: int = Field(default=1_000, ge=1, le=1_000_000)
    """Problems of a task or of an environment."""
    seed: int = Field(default=1, ge=0, lt=2**63)
    """Of a task's or environment's problems: another seed has others, to hold out."""
    params: dict[str, Any] = Field(default={})
    """Settings of a task, as reasoning-gym names them."""
    weight: PositiveWeight = 1.0
    """Its share of the prompts drawn, over the sum of all; held-out problems are all asked."""
    verifier: VerifierName | None = None
    """What judges its responses, as `reward.kind`; None is a task's own scorer, or `reward.kind`
    for a file."""
    right_at: Share | None = None
    """Score from which a response is right, and below which it is wrong. None is 1 for a task's own
    scorer; elsewhere the score is the verdict, perhaps a partial one."""
    prompt_field: str | None = None
    """Field of the problem; None is that of `data`."""
    answer_field: str | None = None
    """Field of the reference answer; None is that of `data`."""
    demonstration_field: str | None = None
    """Field of a worked response; None is that of `data`."""

    @property
    def has_own_scorer(self) -> bool:
        """Whether the task judges."""
        return self.task is not None and self.verifier is None

    @property
    def threshold(self) -> float | None:
        """Score from which a response is right; None where the score is the verdict."""
        return 1.0 if self.right_at is None and self.has_own_scorer else self.right_at

    def verifier_or(self, kind: str) -> str:
        """What judges its responses; `kind` where it says nothing."""
        return TASK_SCORER if self.has_own_scorer else self.verifier or kind

    @property
    def generates(self) -> bool:
        """Whether its problems are what the environment begins with."""
        return self.path is None and self.task is None

    @model_validator(mode="after")
    def _is_one_kind(self) -> SourceConfig:
        if (self.path is None) == (self.task is None) and not (
            self.environment and self.path is None
        ):
            found = "neither" if self.path is None else f"path={self.path} and task={self.task}"
            raise ValueError(f"expected a path, a task or an environment, found {found}")
        there = "a task" if self.task else f"path={self.path}" if self.path else "an environment"
        unread = _OF_TASKS if self.path else (*_OF_FILES, *(() if self.task else ("params",)))
        for key in (*unread, *(("verifier",) if self.environment else ())):
            if (value := getattr(self, key)) != type(self).model_fields[key].default:
                where = "an environment, which judges" if key == "verifier" else there
                raise ValueError(f"{key}={value} with {where}: nothing would read it")
        return self

    @model_validator(mode="after")
    def _params_are_of_the_task(self) -> SourceConfig:
        for key in ("seed", "size"):
            if key in self.params:
                raise ValueError(f"params has {key}={self.params[key]}: it stands beside params")
        try:
            json.dumps(self.params, allow_nan=False)
        except (ValueError, TypeError) as error:
            raise ValueError(f"params: expected numbers, texts and lists ({error})") from None
        return self


_OF_TASKS = ("size", "seed", "params")
_OF_FILES = ("prompt_field", "answer_field", "demonstration_field")


class DataConfig(Settings):
    """A set of prompts with reference answers, or several."""

    path: FilePath | None = None
    """JSONL or Parquet file, one problem per row."""
    sources: dict[SourceName, SourceConfig] = Field(default={})
    """Or several files and tasks by name, each with its weight (docs/sources.md)."""
    prompt_field: str = "prompt"
    """Field of the problem: a string, or a list of chat messages."""
    answer_field: str = "answer"
    """Field of the reference answer."""
    demonstration_field: str | None = None
    """Field of a worked response, for methods that fall back to it; the end-of-sequence token is
    appended."""
    template: str = "{prompt}"
    """Plain template with `{prompt}`; or `chat`, the tokenizer's chat template."""
    system_prompt: str | None = None
    """System message, with `template: chat`."""
    parse_special_tokens: bool = False
    """Special tokens written in a row's text are special tokens, and not text."""
    max_prompt_tokens: Count = 1024
    """Longer prompts are left out, and counted."""
    on_long_prompt: Literal["skip", "error"] = "skip"
    """What a prompt over the limit does."""
    shuffle: bool = True
    """A new seeded order every epoch."""

    def of(self, name: str) -> DataConfig:
        """The settings of a source's file, as if it were the only one; of a task's rows."""
        source = self.sources[name]
        of_task = {"prompt_field": "question", "demonstration_field": None}
        of_task["answer_field"] = "entry" if source.has_own_scorer else "answer"
        of_file = {key: getattr(source, key) or getattr(self, key) for key in _OF_FILES}
        fields = of_task if source.path is None else of_file
        return self.model_copy(update={"path": source.path, "sources": {}, **fields})

    @property
    def file(self) -> Path:
        """The file of data that is one."""
        assert self.path is not None, "it has sources"
        return self.path

    @property
    def parts(self) -> dict[str, DataConfig]:
        """By source what there is to read; under an empty name where it is one file."""
        return {name: self.of(name) for name in self.sources} or {"": self}

    @model_validator(mode="after")
    def _has_problems(self) -> DataConfig:
        if (self.path is None) == (not self.sources):
            path = "null" if self.path is None else self.path
            found = f"path={path} with sources={list(self.sources)}"
            raise ValueError(f"{found}: expected a path, or sources by name, and not both")
        return self

    @model_validator(mode="after")
    def _template_has_a_place(self) -> DataConfig:
        if self.template != "chat" and "{prompt}" not in self.template:
            raise ValueError(f"template={self.template!r} needs '{{prompt}}', or must be 'chat'")
        if self.system_prompt is not None and self.template != "chat":
            raise ValueError("system_prompt is used with template: chat only")
        for name, part in self.parts.items():
            key = f"sources.{name}.answer_field" if name else "answer_field"
            if part.answer_field == part.prompt_field:
                raise ValueError(
                    f"{key}={part.answer_field!r} is prompt_field too: every problem would be its "
                    "own answer, expected two fields"
                )
        return self


class WorkedDataConfig(Settings):
    """Prompts with responses that are given."""

    path: FilePath
    """JSONL or Parquet file, one prompt per row."""
    prompt_field: str = "prompt"
    """Field of the problem: a string, or a list of chat messages."""
    template: str = "{prompt}"
    """Plain template with `{prompt}`; or `chat`, the tokenizer's chat template."""
    parse_special_tokens: bool = False
    """Special tokens written in a row's text are special tokens, and not text."""
    max_tokens: int = Field(default=2048, ge=2, le=1_000_000_000)
    """Rows with a longer prompt and response are left out, and counted."""

    @property
    def response_fields(self) -> dict[str, str]:
        """The fields of a row's responses, by the keys that name them."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _fields_differ(self) -> WorkedDataConfig:
        fields = {"prompt_field": self.prompt_field, **self.response_fields}
        for (key, field), (other, same) in combinations(fields.items(), 2):
            if field == same:
                raise ValueError(f"{other}={same!r} is {key} too, expected two fields")
        return self


class SftDataConfig(WorkedDataConfig):
    """Worked examples."""

    response_field: str = "response"
    """Field of the response to learn; the end-of-sequence token is appended. With
    `workflow.format` a trace: a text with calls and what came of them, or messages."""
    messages_field: str | None = None
    """Or field of whole conversations, of which the prompt is what stands before the model's first
    turn; with `workflow.format`."""
    max_observation_tokens: int = Field(default=512, ge=16, le=1_000_000_000)
    """Of what a call in a trace gives, as `rollout.turns.max_observation_tokens`."""
    on_bad_trace: Literal["error", "skip"] = "error"
    """What a row does that is no episode of the workflow."""

    @property
    def response_fields(self) -> dict[str, str]:
        """One."""
        return {"response_field": self.response_field}


class PairDataConfig(WorkedDataConfig):
    """Pairs of a better and a worse response to a prompt."""

    chosen_field: str = "chosen"
    """Field of the better response: a string, or chat messages that end with it; the
    end-of-sequence token is appended."""
    rejected_field: str = "rejected"
    """Field of the worse one."""

    @property
    def response_fields(self) -> dict[str, str]:
        """The better one first."""
        return {"chosen_field": self.chosen_field, "rejected_field": self.rejected_field}
