"""A checkpoint's manifest as bytes: JSON that carries its own checksum.

    {
     "format": 2,
     "step": 20, "files": {...}, ...
     "crc32": 1742093518
    }

The last line but one is the CRC-32 of every byte before it. The first key says that it must be
there, so that no single fault can make the manifest look like one without: those of format 1,
which earlier versions wrote, have neither.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

MANIFEST = "manifest.json"
_FORMAT = 2
_HEAD = f'{{\n "format": {_FORMAT},\n'.encode()
_TAIL = re.compile(rb',\n "crc32": (\d{1,10})\n\}')
_KEYS: dict[str, type] = {
    "step": int,
    "world_size": int,
    "versions": dict,
    "model": dict,
    "config": dict,
    "files": dict,
}
"""What a manifest of a run has."""


def write_manifest(content: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest, from what it says."""
    body = json.dumps({"format": _FORMAT, **content}, indent=1).encode().removesuffix(b"\n}")
    return body + b',\n "crc32": %d\n}' % zlib.crc32(body)


def read_manifest(data: bytes) -> dict[str, Any]:
    """What a manifest says, of this format or the one before.

    Raises:
        ValueError: a byte of it is not what was written, or it is no manifest.
    """
    tail = _TAIL.search(data)
    is_checked = data.startswith(_HEAD) or tail is not None
    if is_checked:
        _check(data, tail)
    content = json.loads(data)
    for key, kind in _KEYS.items():
        # One that is as it was written may be of a part of a run.
        default = kind() if is_checked else None
        if not isinstance(content, dict) or type(content.get(key, default)) is not kind:
            raise ValueError(f"expected {key!r}, a {kind.__name__}")
    if is_checked:
        del content["format"], content["crc32"]
    return content


def _check(data: bytes, tail: re.Match[bytes] | None) -> None:
    if tail is None or tail.end() < len(data) or zlib.crc32(data[: tail.start()]) != int(tail[1]):
        raise ValueError("its checksum is not that of its content")
