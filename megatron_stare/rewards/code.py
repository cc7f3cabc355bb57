"""Which code a verifier is, so that verdicts of another are known as such."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_STANDARD_LIBRARY = Path(os.__file__).resolve().parent
_INSTALLED = {"site-packages", "dist-packages"}


def code_digest(module: str) -> str:
    """A digest of the Python files that an imported module is made of.

    They are the files beside it, or of its package, with the packages there, and what its import
    has loaded from elsewhere; without the standard library and packages that are installed.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, path in sorted({**_loaded(), **_beside(module)}.items()):
        try:
            content = path.read_bytes()
        except OSError:  # In an archive, or gone.
            content = b""
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _loaded() -> dict[str, Path]:
    """Files of modules by the modules' names."""
    modules = [(name, getattr(module, "__file__", None)) for name, module in [*sys.modules.items()]]
    files = {name: Path(file) for name, file in modules if file and name != "__main__"}
    return {name: path for name, path in files.items() if not _is_library(path)}


def _beside(module: str) -> dict[str, Path]:
    """Files by their places in the folder of the verifier's package, or of its module."""
    file = getattr(sys.modules[module], "__file__", None)
    if file is None:
        return {}
    path = Path(file)
    depth = module.count(".") + (path.name == "__init__.py")
    if depth:
        root = path.parents[depth - 1]
        found = root.rglob("*.py")
    else:
        root = path.parent
        found = _of_folder(root)
    return {str(path.relative_to(root)): path for path in found}


def _of_folder(folder: Path) -> Iterator[Path]:
    """Modules and packages of a folder, which may hold much else."""
    yield from folder.glob("*.py")
    for package in folder.glob("*/__init__.py"):
        yield from package.parent.rglob("*.py")


def _is_library(path: Path) -> bool:
    return bool(_INSTALLED & {*path.parts}) or _STANDARD_LIBRARY in path.resolve().parents
