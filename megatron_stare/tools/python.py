"""The tool `python`: a model's code, run in a sandbox, and what it printed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any, Protocol

from megatron_stare.config.tools import LimitsConfig, ToolsConfig
from megatron_stare.errors import UserError, without_surrogates
from megatron_stare.tools.cells import script_of
from megatron_stare.tools.fusion import FusionSandbox
from megatron_stare.tools.sandbox.confine import Limits
from megatron_stare.tools.sandbox.isolation import WALLS
from megatron_stare.tools.sandbox.pool import Run, Sandbox, SandboxFailure, trouble_with
from megatron_stare.tools.signature import Signature
from megatron_stare.tools.tool import Arguments, ToolResult


def _python(code: str) -> str:
    """Runs Python code and returns what it prints, or the traceback where it raises.

    Args:
        code: a whole program; it must print its results.
    """
    return code


def _notebook(code: str) -> str:
    """Runs a cell of a Python notebook and returns what it prints, or the traceback.

    Args:
        code: the cell; it sees what earlier cells have defined.
    """
    return code


class _Runner(Protocol):
    def run(self, code: str, deadline_s: float) -> Run: ...

    def close(self) -> None: ...


class PythonTool:
    """Code in the sandbox of a config; where it is stateful, the calls of a sample are cells."""

    name = "python"

    def __init__(self, config: ToolsConfig) -> None:
        self.config = config
        self.remembers = config.stateful
        self.signature = Signature(_notebook if config.stateful else _python, self.name)
        self._runner: _Runner | None = None

    @property
    def schema(self) -> dict[str, Any]:
        """As chat templates take it."""
        return self.signature.schema

    def start(self) -> None:
        """See that code runs here, behind the walls that are asked for.

        Raises:
            UserError: it does not.
        """
        self._runner = _runner(self.config)
        try:
            self._runner.run("print(1)", self.config.deadline_s)
        except SandboxFailure as error:
            self.close()
            raise UserError(f"tools.sandbox={self.config.sandbox}: {error}") from None

    def session(self, log: Sequence[Arguments] = ()) -> _Session:
        """Of a notebook, with the cells of `log`."""
        assert self._runner is not None, "it is started"
        return _Session(self, self._runner, log)

    def close(self) -> None:
        """End the sandbox's processes."""
        if self._runner is not None:
            self._runner.close()


class _Session:
    def __init__(self, tool: PythonTool, runner: _Runner, log: Sequence[Arguments]) -> None:
        self._tool, self._runner = tool, runner
        self._cells: list[str] = []
        self._untried = [*log] if tool.config.stateful else []

    def call(self, arguments: Arguments, deadline_s: float) -> ToolResult:
        start = time.monotonic()
        try:
            self._catch_up(deadline_s)
            run = self._run(arguments, deadline_s)
        except ValueError as error:
            return ToolResult(str(error), ok=False)
        except SandboxFailure as error:
            seconds = time.monotonic() - start
            return ToolResult("the sandbox is out of order", False, str(error), seconds)
        text = run.output + _explanation(run, self._tool.config.limits, deadline_s)
        return ToolResult(text, run.ending == "done", None, time.monotonic() - start)

    def close(self) -> None:
        pass

    def _catch_up(self, deadline_s: float) -> None:
        """Learn which calls before this session are cells: those that ran into no limit."""
        while self._untried:
            with contextlib.suppress(ValueError):
                self._run(self._untried[0], deadline_s)
            del self._untried[0]

    def _run(self, arguments: Arguments, deadline_s: float) -> Run:
        """Run the code of a call; a cell stays, unless a limit has ended it.

        Raises:
            ValueError: it has none.
        """
        # JSON can write half a character, and a source file cannot have it.
        code = without_surrogates(self._tool.signature.check(arguments)["code"])
        if not self._tool.config.stateful:
            return self._runner.run(code, deadline_s)
        run = self._runner.run(script_of(self._cells, code), deadline_s)
        if run.ending in ("done", "raised"):
            self._cells.append(code)
        return run


def _explanation(run: Run, limits: LimitsConfig, deadline_s: float) -> str:
    """For the model, why a run was ended."""
    reasons = {
        "time": f"after {deadline_s:g} seconds",
        "cpu": f"after {limits.cpu_s} seconds of processor time",
        "output": f"after {limits.output_kib} KiB of output",
        "files": f"at {limits.files_mib} MiB of files",
        "died": f"by signal {run.signal}",
    }
    reason = reasons.get(run.ending)
    gap = "\n" if run.output and not run.output.endswith("\n") else ""
    return f"{gap}[the run was ended {reason}]\n" if reason else ""


def _runner(config: ToolsConfig) -> _Runner:
    limits = Limits(
        cpu_s=config.limits.cpu_s,
        memory_bytes=config.limits.memory_mib << 20,
        file_bytes=config.limits.files_mib << 20,
        output_bytes=config.limits.output_kib << 10,
    )
    server = config.sandbox_fusion
    if server.url is not None:
        return FusionSandbox(server.url, limits, max_attempts=server.max_attempts)
    walls = _chosen_walls(config.sandbox)
    try:
        return Sandbox(walls, config.packages, limits, workers=config.workers, wait_s=config.wait_s)
    except ValueError as error:
        raise UserError(f"tools.packages: {error}") from None


def _chosen_walls(sandbox: str) -> str:
    """The first of those asked for that work here."""
    asked = [walls for walls in WALLS if walls != "none"] if sandbox == "auto" else [sandbox]
    reasons = []
    for walls in asked:
        reason = trouble_with(walls)
        if reason is None:
            return walls
        reasons.append(f"{walls} does not work here: {reason}")
    raise UserError(
        f"tools.sandbox={sandbox}: {'; '.join(reasons)}. Expected walls that work (megatron-stare "
        "tools --check), or `none`, with which a model's code may do what this process may"
    )
