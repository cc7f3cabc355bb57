"""Tools that a model may call, and the sandbox in which its code runs."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from megatron_stare.system.settings import Settings
from megatron_stare.system.values import Count, FilePath, Seconds, is_server_url, one_of_or_own

TOOLS = {
    "python": "megatron_stare.tools.python:PythonTool",
    "calculator": "megatron_stare.tools.calculator:calculate",
    "search": "megatron_stare.tools.search:SearchTool",
}
"""Classes and functions by the names of `tools.names`; any other name is one of the user's."""


def _checked_package(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"expected a package's name as it is imported, found {name!r:.80}")
    return name


ToolName = Annotated[
    str,
    AfterValidator(one_of_or_own(TOOLS, "a function or class of your own as package.module:name")),
]
PackageName = Annotated[str, AfterValidator(_checked_package)]
Sandbox = Literal["auto", "bubblewrap", "landlock", "none", "sandbox_fusion"]


class LimitsConfig(Settings):
    """What one run of `python` may use; it is one process with one thread, always."""

    cpu_s: int = Field(default=10, ge=1, le=100_000)
    """Seconds of processor time."""
    memory_mib: int = Field(default=1024, ge=16, le=1_000_000)
    """Memory beside what the interpreter and `packages` take."""
    files_mib: int = Field(default=16, ge=1, le=100_000)
    """Of all files together that it writes into its folder."""
    output_kib: int = Field(default=64, ge=1, le=100_000)
    """Of what it prints; it is ended there."""


class FusionConfig(Settings):
    """A SandboxFusion server, for `sandbox: sandbox_fusion`."""

    url: str | None = None
    """Its URL, such as http://10.0.0.5:8080."""
    max_attempts: Count = 3
    """Requests for one run, where the server fails or its sandbox does."""

    @model_validator(mode="after")
    def _url_is_one(self) -> FusionConfig:
        if self.url is not None and not is_server_url(self.url):
            raise ValueError(
                f"url is {self.url!r}, expected scheme, host and port: http://HOST:PORT"
            )
        return self


class SearchConfig(Settings):
    """The tool `search`."""

    corpus: FilePath | None = None
    """JSONL of passages, each with a `text` and perhaps a `title`."""
    results: int = Field(default=3, ge=1, le=1000)
    """Passages that a query brings."""


class ToolsConfig(Settings):
    """Tools that a model may call."""

    names: tuple[ToolName, ...] = ()
    """`python`, `calculator`, `search`, or your own as `package.module:name`."""
    deadline_s: Seconds = 20.0
    """Seconds that a call may take."""
    sandbox: Sandbox = "auto"
    """Walls around the code of `python`: `auto` takes bubblewrap where it works, else Landlock, and
    refuses where neither does; `none` is no walls at all; `sandbox_fusion` is a server."""
    workers: int = Field(default=2, ge=1, le=4096)
    """Runs of `python` at a time."""
    wait_s: Seconds = 600.0
    """Seconds that a run may wait for one of these; then its call has failed."""
    packages: tuple[PackageName, ...] = ("numpy", "sympy")
    """That its code may import, with what they need, beside the standard library."""
    stateful: bool = False
    """Its calls of one sample are cells of a notebook: each sees what those before defined."""
    limits: LimitsConfig = LimitsConfig()
    sandbox_fusion: FusionConfig = FusionConfig()
    search: SearchConfig = SearchConfig()

    @model_validator(mode="after")
    def _each_name_once(self) -> ToolsConfig:
        twice = {name for name in self.names if self.names.count(name) > 1}
        if twice:
            raise ValueError(f"names has {min(twice)!r} twice, expected every tool once")
        return self

    @model_validator(mode="after")
    def _what_a_tool_needs_is_there(self) -> ToolsConfig:
        if (self.sandbox == "sandbox_fusion") != (self.sandbox_fusion.url is not None):
            raise ValueError(
                f"sandbox={self.sandbox!r} with sandbox_fusion.url={self.sandbox_fusion.url}: a "
                "URL belongs to sandbox 'sandbox_fusion', and it needs one"
            )
        if "search" in self.names and self.search.corpus is None:
            raise ValueError("names has 'search' with search.corpus=null, expected a JSONL file")
        return self
