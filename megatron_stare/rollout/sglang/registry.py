"""The registration folder: a file for each server that is up, `HOST_PORT.json`, with its URL."""

from __future__ import annotations

import json
from pathlib import Path

from megatron_stare.errors import UserError


def register(folder: Path, url: str, *, pid: int) -> Path:
    """Announce a server that answers; returns the file, to be deleted when it is gone."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (url.partition("://")[2].replace(":", "_") + ".json")
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"url": url, "pid": pid}) + "\n")
    partial.rename(path)
    return path


def registered_urls(folder: Path) -> list[str]:
    """URLs of the servers announced in a folder, in the order of their files' names.

    Raises:
        UserError: a file is not one that `register` writes.
    """
    return [_read_url(path) for path in sorted(folder.glob("*.json"))]


def _read_url(path: Path) -> str:
    try:
        url = json.loads(path.read_text())["url"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a server's registration, expected JSON with a url") from None
    return str(url)
