"""Problems of a task of reasoning-gym, generated in a process of its own.

Same task, seed, size and params, and same version of the package: same problems, in every process.
Some tasks go through sets of texts, whose order Python changes from process to process; so theirs
has a fixed one. And what a task imports, prints and draws at random stays there.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

from megatron_stare.config.data import DataConfig, SourceConfig
from megatron_stare.data.tables import Row, Table
from megatron_stare.errors import UserError
from megatron_stare.system.stop_signals import kept_from_children

PACKAGE = "reasoning-gym"
_SEEDS = 2**31 - 2**20
_CHECKED: set[str] = set()
"""Sources that generate; a comparison has many runs of one."""


def generate_problems(source: SourceConfig, key: str) -> Table:
    """The problems of a task: `question`, `answer`, and `entry`, what its own scorer needs.

    Args:
        key: of `source`, for messages.

    Raises:
        UserError: there is no such task or package, the task refuses its params, or takes too long
            or too much memory for a problem.
    """
    name = f"{key}: {source.task} of {PACKAGE} {_version(source, key)}"
    settings = {**source.params, "seed": _seed_of(source), "size": source.size}
    command = [sys.executable, "-m", "megatron_stare.data.task_process"]
    with kept_from_children():
        process = subprocess.Popen(
            ["env", "PYTHONHASHSEED=0", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
    told = json.dumps({"task": source.task, "settings": settings})
    lines, said = process.communicate(told)
    messages = [json.loads(line) for line in lines.splitlines()]
    problems = [message for message in messages if "error" not in message]
    if len(problems) == source.size:
        rows = enumerate(problems, start=1)
        return Table(name, [Row(i, f"{source.task}:{i}", fields) for i, fields in rows])
    if len(problems) < len(messages):
        refused = messages[-1]
        where = {"task": f"task={source.task}", "params": f"params={source.params}"}
        raise UserError(f"{key}.{where[refused['of']]}: {refused['error']}")
    last = said.strip().rpartition("\n")[2][:200]
    raise UserError(
        f"{key}.task={source.task}: problem {len(problems) + 1} of {source.size} could not be made "
        f"(exit code {process.returncode}{', ' if last else ''}{last})"
    )


def check_task(source: SourceConfig, key: str) -> None:
    """See that a task generates a problem, before many are asked of it.

    Raises:
        UserError: as `generate_problems`.
    """
    one = source.model_copy(update={"size": 1})
    if (text := one.model_dump_json()) not in _CHECKED:
        generate_problems(one, key)
        _CHECKED.add(text)


def versions_of(*configs: DataConfig | None) -> dict[str, str]:
    """The version of the package that problems are generated with, by its name; empty without."""
    sources = [source for config in configs if config for source in config.sources.values()]
    return {PACKAGE: version(PACKAGE)} if any(source.task for source in sources) else {}


def _version(source: SourceConfig, key: str) -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        raise UserError(
            f"{key}.task={source.task}: the package {PACKAGE} is not installed, expected it: "
            f"pip install 'megatron-stare[{PACKAGE}]'"
        ) from None


def _seed_of(source: SourceConfig) -> int:
    """The generator's: it makes problem i of `seed + i`, so that neighbours would share theirs."""
    text = f"{source.task}/{source.seed}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest) % _SEEDS
