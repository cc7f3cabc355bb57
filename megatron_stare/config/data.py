"""Data sets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from megatron_stare.system.settings import Settings
from megatron_stare.system.values import Count, FilePath


def _check_two_fields(key: str, field: str, prompt_field: str) -> None:
    if field == prompt_field:
        raise ValueError(
            f"{key}={field!r} is prompt_field too: every problem would be its own answer, expected "
            "two fields"
        )


class DataConfig(Settings):
    """A set of prompts with reference answers."""

    path: FilePath
    """JSONL or Parquet file, one problem per row."""
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

    @model_validator(mode="after")
    def _template_has_a_place(self) -> DataConfig:
        if self.template != "chat" and "{prompt}" not in self.template:
            raise ValueError(f"template={self.template!r} needs '{{prompt}}', or must be 'chat'")
        if self.system_prompt is not None and self.template != "chat":
            raise ValueError("system_prompt is used with template: chat only")
        _check_two_fields("answer_field", self.answer_field, self.prompt_field)
        return self


class SftDataConfig(Settings):
    """Worked examples."""

    path: FilePath
    """JSONL or Parquet file, one example per row."""
    prompt_field: str = "prompt"
    """Field of the problem: a string, or a list of chat messages."""
    response_field: str = "response"
    """Field of the response to learn; the end-of-sequence token is appended."""
    template: str = "{prompt}"
    """Plain template with `{prompt}`; or `chat`, the tokenizer's chat template."""
    parse_special_tokens: bool = False
    """Special tokens written in a row's text are special tokens, and not text."""
    max_tokens: int = Field(default=2048, ge=2, le=1_000_000_000)
    """Longer examples are left out, and counted."""

    @model_validator(mode="after")
    def _response_is_no_prompt(self) -> SftDataConfig:
        _check_two_fields("response_field", self.response_field, self.prompt_field)
        return self
