"""The registration folder: a file for each server or router that is up, `HOST_PORT.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from megatron_stare.errors import UserError
from megatron_stare.system.folders import replacing_file
from megatron_stare.system.json_file import read_object

Kind = Literal["server", "router"]


def register(folder: Path, url: str, *, pid: int, kind: Kind = "server") -> Path:
    """Announce one that answers; returns the file, to be deleted when it is gone."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (url.partition("://")[2].replace(":", "_") + ".json")
    with replacing_file(path) as unfinished:
        unfinished.write_text(json.dumps({"url": url, "pid": pid, "kind": kind}) + "\n")
    return path


def registered_urls(folder: Path, kind: Kind = "server") -> list[str]:
    """URLs of those of a kind announced in a folder, in the order of their files' names.

    Raises:
        UserError: a file is not one that `register` writes.
    """
    entries = [_read(path) for path in sorted(folder.glob("*.json"))]
    return [url for url, found in filter(None, entries) if found == kind]


def _read(path: Path) -> tuple[str, str] | None:
    """None for one that was withdrawn just now."""
    expected = "a server's registration, with url and kind"
    try:
        entry = read_object(path, expected)
    except UserError:
        if not path.exists():
            return None
        raise
    try:
        return str(entry["url"]), str(entry["kind"])
    except KeyError as missing:
        raise UserError(f"{path}: no {missing}; expected {expected}") from None
