"""What a run's samples and verdicts depend on, besides the course of its steps."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from megatron_stare import __version__
from megatron_stare.algorithms.method import Method
from megatron_stare.config.agent import AgentConfig
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.tools import ToolsConfig

_SECTIONS = {
    *("model", "data", "rollout", "workflow", "tools", "environments", "reward", "algorithm"),
    *("optim", "train"),
}
_NO_MATTER = {"servers", "max_rounds"}
"""Keys of `rollout` that change no sample."""


def lineage_of(config: TrainConfig, verifier_code: str) -> str:
    """A fingerprint: of the settings, the model's files, and code that is not the package's.

    Args:
        verifier_code: a digest of it, from a process that has imported it.
    """
    settings = config.model_dump(mode="json", include=_SECTIONS)
    for key in _NO_MATTER:
        del settings["rollout"][key]
    own = code_of_parts(config.algorithm) | code_of_tools(config.tools)
    own |= code_of_agent(config.workflow.agent)
    return fingerprint(config.model.path, config.run.seed, settings, verifier_code, own)


def fingerprint(model: Path, *parts: Any) -> str:
    """A digest of a model's files and of parts that JSON can hold, for this version."""
    return _digest(json.dumps([__version__, *parts, _stamps(model)], sort_keys=True).encode())


def code_of_parts(method: Method) -> dict[str, str]:
    """Digests of the files in which a user's own parts of a method are written, by part."""
    own = {name: type(part) for name, part in method.parts.items() if ":" in name}
    return {f"code of {name}": _digest(_source(kind)) for name, kind in own.items()}


def code_of_tools(config: ToolsConfig) -> dict[str, str]:
    """Digests of the files in which a user's own tools are written, by tool; they are imported."""
    modules = {name: name.partition(":")[0] for name in config.names if ":" in name}
    return {f"code of {name}": _digest(_source(sys.modules[m])) for name, m in modules.items()}


def code_of_agent(config: AgentConfig) -> dict[str, str]:
    """A digest of the file in which a user's agent is written, if there is one; it is imported."""
    if config.function is None:
        return {}
    module = sys.modules[config.function.partition(":")[0]]
    return {f"code of {config.function}": _digest(_source(module))}


def _source(kind: type | ModuleType) -> bytes:
    try:
        return Path(inspect.getfile(kind)).read_bytes()
    except (OSError, TypeError):  # Not from a file.
        return repr(kind).encode()


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    """Name, bytes and time of change of each file: to read them all would take minutes."""
    stats = {path.name: path.stat() for path in sorted(folder.iterdir()) if path.is_file()}
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()]


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
