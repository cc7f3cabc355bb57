"""Who reads the environment: `launch/`, and a few places that are named here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import megatron_stare
from megatron_stare.errors import UserError
from megatron_stare.launch.environment import (
    environment_with,
    preloading,
    read_api_key,
    visible_gpus,
)

PACKAGE = Path(megatron_stare.__file__).parent
ELSEWHERE = {
    "system/values.py",  # $NAMES in paths of a config.
    "ops/head_triton.py",  # Pins a tile, when the kernel is compiled.
    "engines/sglang/with_api_key.py",  # Runs in a server's environment, without this package.
    "engines/sglang/cpu/sgl_kernel/__init__.py",  # The same.
    "rewards/killable.py",  # Hands its own on to a child, with a hash seed and a folder more.
    "tools/sandbox/child.py",  # Empties its own, before it runs a model's code.
}


def test_launch_alone_reads_the_environment():
    reading = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(r"\benviron(b?\b|\[)|getenv|expandvars", path.read_text())
    }

    assert {name for name in reading if not name.startswith("launch/")} == ELSEWHERE


def test_a_process_that_is_started_has_this_environment_with_its_changes(monkeypatch):
    monkeypatch.setenv("KEPT", "as it was")
    monkeypatch.setenv("CHANGED", "before")
    environment = environment_with({"CHANGED": "after"})

    assert (environment["KEPT"], environment["CHANGED"]) == ("as it was", "after")


def test_a_library_comes_before_those_that_are_loaded_anyway(monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    assert preloading(Path("/a.so")) == {"LD_PRELOAD": "/a.so"}
    monkeypatch.setenv("LD_PRELOAD", "/b.so")
    assert preloading(Path("/a.so")) == {"LD_PRELOAD": "/a.so /b.so"}


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, ["0", "1"]), ("3, GPU-7,5", ["3", "GPU-7"])]
)
def test_gpus_are_called_what_this_process_may_call_them(monkeypatch, visible, expected):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus(2) == expected


def test_a_key_is_read_where_one_is_named(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    assert read_api_key(None, option="--api-key-env") is None
    assert read_api_key("MY_KEY", option="--api-key-env") == "secret"
    with pytest.raises(UserError, match="no NOT_THERE, expected the API key in it"):
        read_api_key("NOT_THERE", option="--api-key-env")
