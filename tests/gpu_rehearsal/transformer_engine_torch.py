"""In place of Transformer Engine's C++ extension: what a bf16 step calls, computed by torch.

Loaded by Transformer Engine as its extension (`host.py`), so all Python above it is the real one.
Sums are in float32 and results rounded to the type asked for, as the kernels have it. Enums are
read from the headers of the released package, but for those of the extension itself. A name that is
not here can be imported, and raises when it is called.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any

import transformer_engine.common

from tests.gpu_rehearsal.te_attention import *  # noqa: F403
from tests.gpu_rehearsal.te_kernels import *  # noqa: F403

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_ENUM = re.compile(r"\benum\s+(?:class\s+)?(\w+)\s*\{(.*?)\}|enum\s*\{(.*?)\}\s*(\w+)", re.DOTALL)


def _enums_of_headers() -> dict[str, type[enum.IntEnum]]:
    folder = Path(transformer_engine.common.__file__).parent / "include/transformer_engine"
    text = "\n".join(_COMMENT.sub("", path.read_text()) for path in sorted(folder.glob("*.h")))
    named = {m[1]: _members(m[2]) for m in _ENUM.finditer(text) if m[1]}
    # C enums without a scope of their own repeat a prefix, which the extension leaves out.
    unscoped = {m[4]: _members(m[3]) for m in _ENUM.finditer(text) if not m[1]}
    for name, members in unscoped.items():
        named[name] = {member.removeprefix(_prefix(members)): i for member, i in members.items()}
    return {name: enum.IntEnum(name, members) for name, members in named.items()}


def _prefix(members: Iterable[str]) -> str:
    """Words that all begin with, with the `_` behind them."""
    words = zip(*(member.split("_") for member in members), strict=False)
    shared = takewhile(lambda same: len({*same}) == 1, words)
    return "".join(f"{word}_" for word, *_ in shared)


def _members(body: str) -> dict[str, int]:
    """Of a C enum: one without a value is one more than that before."""
    members: dict[str, int] = {}
    for item in filter(None, map(str.strip, body.split(","))):
        name, _, value = (part.strip() for part in item.partition("="))
        after = max(members.values(), default=-1) + 1
        members[name] = members[value] if value in members else int(value, 0) if value else after
    return members


_ENUMS = _enums_of_headers()
globals().update(_ENUMS)
# Of the types of the headers, those that the extension shows to Python.
_FLOATS = ("kFloat32", "kFloat16", "kBFloat16", "kFloat8E4M3", "kFloat8E5M2", "kFloat4E2M1")
DType = enum.IntEnum(
    "DType", {name: _ENUMS["DType"][name].value for name in ("kByte", "kInt32", *_FLOATS)}
)
_OF_A_GEMM = ("INPUT", "WEIGHT", "OUTPUT")
FP8FwdTensors = enum.IntEnum(
    "FP8FwdTensors", [f"GEMM{i}_{of}" for i in (1, 2, 3) for of in _OF_A_GEMM], start=0
)
FP8BwdTensors = enum.IntEnum(
    "FP8BwdTensors", [f"GRAD_{of}{i}" for i in (1, 2, 3) for of in ("OUTPUT", "INPUT")], start=0
)


def __getattr__(name: str) -> Any:
    """Whatever else is imported from here."""
    if name.startswith("__"):
        raise AttributeError(name)
    return globals().setdefault(name, _missing(name))


def _missing(name: str) -> Any:
    if name[0].isupper():
        return type(name, (), {})

    def missing(*args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(f"the stand-in of Transformer Engine's C++ has no {name}")

    return missing


def _names_in_python() -> set[str]:
    """What the released package calls of its extension."""
    folder = Path(transformer_engine.common.__file__).parents[1] / "pytorch"
    texts = [path.read_text() for path in folder.rglob("*.py")]
    return {name for text in texts for name in re.findall(r"\btex\.([A-Za-z]\w+)", text)}


def get_cudnn_version() -> int:
    """9.24, that of the wheel."""
    return 92400


def get_cublasLt_version() -> int:
    """13.1."""
    return 130100


def get_num_cublas_streams() -> int:
    """As the extension has it."""
    return 4


def get_stream_priority_range(*_: Any) -> tuple[int, int]:
    """As CUDA has it."""
    return 0, -5


def get_fused_attn_backend(parameters: Any) -> tuple[Any, str]:
    """cuDNN's kernel for any length; nothing speaks against it."""
    return _ENUMS["NVTE_Fused_Attn_Backend"]["NVTE_F16_arbitrary_seqlen"], ""


# It re-exports all that is here, and calls some through that.
for _name in _names_in_python() - globals().keys():
    globals()[_name] = _missing(_name)
