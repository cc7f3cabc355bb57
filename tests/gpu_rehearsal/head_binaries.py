"""The head's kernels compiled for a GPU that is not here: what their binaries take of it.

    python -m tests.gpu_rehearsal.head_binaries 90 _partial_kernel 0 1 5

prints a line of JSON for each of the configs named. TRITON_CACHE_DIR must be a folder of the
caller's, so that nothing is taken from or left in the user's cache.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from megatron_stare.ops import head_triton

_TENSOR_CORES = {90: "wgmma.mma_async", 100: "tcgen05.mma"}


def binary(kernel: Any, config: Any, capability: int) -> dict[str, Any]:
    """Of the variant that training runs: a vocabulary and hidden size of whole sixteens, any n.

    Triton compiles another where n is one, too, and again others where v or h are not; those of
    `head_kernels` that prove the kernels are all three.
    """
    log = io.StringIO()
    with knobs.nvidia.scope(), contextlib.redirect_stdout(log):
        knobs.nvidia.dump_ptxas_log = True
        compiled = compile_kernel(
            _source(kernel, config),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": config.num_warps, "num_stages": config.num_stages},
        )
    ptx = compiled.asm["ptx"]
    return {
        "kernel": kernel.fn.__name__,
        "tile": [config.kwargs[name] for name in ("ROWS", "COLS", "DEPTH")],
        "warps": config.num_warps,
        "stages": config.num_stages,
        "registers": int(_found(r"Used (\d+) registers", log.getvalue())),
        "spilled": int(_found(r"(\d+) bytes spill stores", log.getvalue())),
        "shared": compiled.metadata.shared,
        "tensor_cores": _TENSOR_CORES[capability] in ptx,
        "asynchronous_copies": "cp.async" in ptx,
    }


def _source(kernel: Any, config: Any) -> ASTSource:
    names = kernel.fn.arg_names
    constants = {"SPLIT": head_triton._SPLIT, "moment_weights": None, **config.kwargs}
    bfloat16 = dict.fromkeys(("hidden", "columns", "d_logits"), "*bf16")
    numbers = {"targets": "*i64", "n": "i32", "v": "i32", "h": "i32", "is_many": "u1"}
    types = {name: (bfloat16 | numbers).get(name, "*fp32") for name in names}
    divisible = [name for name, of in types.items() if of.startswith("*") or name in ("v", "h")]
    return ASTSource(
        kernel.fn,
        {name: "constexpr" if name in constants else of for name, of in types.items()},
        {(i,): constants[name] for i, name in enumerate(names) if name in constants},
        {
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(names)
            if name in divisible and name not in constants
        },
    )


def _found(pattern: str, log: str) -> str:
    match = re.search(pattern, log)
    assert match is not None, log
    return match[1]


def main(arguments: Sequence[str]) -> None:
    """Print what was asked for."""
    capability, name, *numbers = arguments
    kernel = getattr(head_triton, name)
    for number in numbers or range(len(kernel.configs)):
        print(json.dumps(binary(kernel, kernel.configs[int(number)], int(capability))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
