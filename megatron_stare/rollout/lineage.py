"""What a run's samples and verdicts depend on, besides the course of its steps."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from megatron_stare import __version__
from megatron_stare.config.commands import TrainConfig
from megatron_stare.rewards.scorer import function_name

_SECTIONS = {"model", "data", "rollout", "reward", "algorithm", "stare", "optim", "train"}
_NO_MATTER = {"servers", "max_rounds"}
"""Keys of `rollout` that change no sample."""


def lineage_of(config: TrainConfig) -> str:
    """A fingerprint: of the settings, the model's files, and the verifier's code."""
    settings = config.model_dump(mode="json", include=_SECTIONS)
    for key in _NO_MATTER:
        del settings["rollout"][key]
    parts = [
        *(__version__, config.run.seed, settings),
        *(_stamps(config.model.path), _code_digest(config.reward.kind)),
    ]
    return _digest(json.dumps(parts, sort_keys=True).encode())


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    """Name, bytes and time of change of each file: to read them all would take minutes."""
    stats = {path.name: path.stat() for path in sorted(folder.iterdir()) if path.is_file()}
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()]


def _code_digest(kind: str) -> dict[str, Any]:
    """Of the Python files beside the verifier's: it may import them."""
    spec = find_spec(function_name(kind).partition(":")[0])
    if spec is None or spec.origin is None:
        return {}
    files = sorted(Path(spec.origin).parent.glob("*.py"))
    return {path.name: _digest(path.read_bytes()) for path in files}


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
