"""A process with the fake device, which forks worlds of trainers: imports cost seconds, once.

    python -m tests.gpu_rehearsal.host [--transformer-engine]

reads requests from standard input, a line of JSON each (`processes.Host` writes them), and answers
with the ranks' exit codes. A rank calls the function that the request names, with the device's
record, and leaves what it returns as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

# The device first: it decides what Megatron-Core and the trainer find.
from tests.gpu_rehearsal import fake_cuda
from tests.gpu_rehearsal.fake_cuda import Record


def main() -> None:
    if "--transformer-engine" in sys.argv:
        _import_transformer_engine()
    record = fake_cuda.install()
    import torch

    import megatron_stare.policy

    # isort: split
    import megatron_stare.sft
    import megatron_stare.train  # noqa: F401

    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pids = [_fork(rank, request, record) for rank in range(request["processes"])]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(codes), flush=True)


def _import_transformer_engine() -> None:
    """With this project's file in place of its extension."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it has found none
        import transformer_engine.common as common
    extension = Path(__file__).with_name("transformer_engine_torch.py")
    common._get_shared_object_file = lambda framework: extension
    import transformer_engine.pytorch  # noqa: F401


def _fork(rank: int, request: dict[str, Any], record: Record) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _redirect(Path(request["log"]))
        if request["processes"] > 1:
            place = {"RANK": rank, "WORLD_SIZE": request["processes"], "LOCAL_RANK": rank}
            os.environ |= {key: str(value) for key, value in place.items()}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(request["port"])}
        module, _, function = request["function"].partition(":")
        result = getattr(importlib.import_module(module), function)(record, *request["arguments"])
        Path(f"{request['results']}/{rank}.json").write_text(json.dumps(result))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for standard, replacement in ((0, nothing), (1, descriptor), (2, descriptor)):
        os.dup2(replacement, standard)


if __name__ == "__main__":
    main()
