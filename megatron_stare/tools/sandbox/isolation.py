"""The walls that there are, and how a template is started behind each of them.

    bubblewrap   namespaces of its own: nothing is there but what is bound, read-only, and a small
                 file system in memory; no network, no other process, no /proc
    landlock     the machine's files, of which no others can be opened; for where bubblewrap is not
                 installed or user namespaces are shut
    none         no walls; limits of time, memory and output alone

Behind either of the first two, a run is also held by the filter of `seccomp` and has no capability.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_stare.tools.sandbox import landlock, seccomp

WALLS = ("bubblewrap", "landlock", "none")
FOLDER = "/scratch"
"""Of a run, behind bubblewrap."""

_ROOT = Path(__file__).parents[3]
_OWN = ("megatron_stare/__init__.py", "megatron_stare/tools/__init__.py")
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
_ENVIRONMENT = {
    "PYTHONPATH": str(_ROOT),
    "PYTHONHASHSEED": "0",
    "LC_ALL": "C.UTF-8",
    "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib",  # Of an interpreter that modules of a site load.
    # A library's threads would not be there in a fork, and a run may have none.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What code needs to be run: files that it may read, and where its packages are."""

    readable: tuple[Path, ...]
    import_path: tuple[str, ...]


def interpreter(packages: Sequence[str]) -> Interpreter:
    """This one, with some packages and what they require.

    Raises:
        ValueError: a package is not installed.
    """
    installed = importlib.metadata.packages_distributions() if packages else {}
    found = [path for name in packages for path in _files_of(name, installed)]
    base = Path(sys.base_prefix)
    system = [Path(path) for path in _SYSTEM]
    readable = [*system, base / "lib", base / "lib64", Path(_executable()), *found]
    folders = dict.fromkeys(str(path.parent) for path in found)
    return Interpreter(tuple(dict.fromkeys(readable)), tuple(folders))


def missing(walls: str) -> str | None:
    """Why such walls cannot stand here, as far as can be told without trying."""
    if walls != "none" and not seccomp.is_known_machine():
        return f"there is no table of system calls for {os.uname().machine}"
    if walls == "bubblewrap" and shutil.which("bwrap") is None:
        return "there is no program bwrap (package bubblewrap)"
    if walls == "landlock" and landlock.version() < landlock.MIN_VERSION:
        return f"the kernel has no Landlock of version {landlock.MIN_VERSION} (Linux 6.2)"
    return None


def environment() -> dict[str, str]:
    """Of a template: nothing of the trainer's."""
    return dict(_ENVIRONMENT)


def command(walls: str, readable: Iterable[Path], file_bytes: int) -> list[str]:
    """That starts a template behind such walls."""
    template = [
        _executable(),
        *("-s", "-S", "-P", "-B"),
        *("-X", "utf8", "-m", "megatron_stare.tools.sandbox.template"),
    ]
    if walls != "bubblewrap":
        return template
    own = [*(_ROOT / path for path in _OWN), Path(__file__).parent]
    bound = [word for path in (*readable, *own) for word in ("--ro-bind-try", str(path), str(path))]
    return [
        "bwrap",
        *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
        *("--unshare-cgroup-try", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"),
        *bound,
        *("--dev-bind", "/dev/null", "/dev/null", "--dev-bind", "/dev/urandom", "/dev/urandom"),
        *("--size", str(file_bytes), "--tmpfs", FOLDER, "--remount-ro", "/"),
        "--",
        *template,
    ]


def _executable() -> str:
    return os.path.realpath(sys.executable)


def _files_of(package: str, installed: Mapping[str, Sequence[str]]) -> Iterator[Path]:
    """Folders and modules of a package and of what it requires, each once.

    Args:
        installed: distributions, by the packages that are in them.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(f"package {package} is not installed")
    origin = Path(spec.origin)
    yield origin.parent if spec.submodule_search_locations else origin
    seen: set[str] = set()
    waiting = list(installed.get(package, []))
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        distribution = importlib.metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or ()}
        for top in sorted(tops - {"..", "__pycache__"}):
            yield Path(str(distribution.locate_file(top)))
        for requirement in distribution.requires or ():
            if "extra" not in requirement.partition(";")[2]:
                waiting.append(re.split(r"[^\w.-]", requirement)[0])
