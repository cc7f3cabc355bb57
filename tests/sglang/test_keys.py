"""Servers and router that ask for an API key: who has it works, and nobody sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from megatron_stare.errors import UserError
from tests.children import descendants
from tests.e2e.programs import REPO
from tests.models import hf_tensors
from tests.requests_of import requests_of
from tests.sglang.servers import PYTHON, ROUTER_PYTHON, needs_servers, wait_until
from tests.sglang.test_engine import PROMPTS, open_engine
from tests.sglang.test_faults import SHORT, assert_complete

pytestmark = needs_servers

VARIABLE = "TESTS_SERVER_KEY"
KEY = "the-key-1f7a90"


@pytest.fixture(scope="module")
def registry(model, tmp_path_factory):
    """Of a server and a router, started with the key in a variable."""
    registry = tmp_path_factory.mktemp("keys") / "registry"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "megatron_stare.cli", "serve", str(model)),
            *("--servers", "1", "--dtype", "float32", "--registry", str(registry), "--router"),
            *("--python", str(PYTHON), "--router-python", str(ROUTER_PYTHON)),
            *("--api-key-env", VARIABLE, "--sglang", "--max-total-tokens", "16384"),
        ],
        cwd=REPO,
        env=os.environ | {VARIABLE: KEY},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: len(list(registry.glob("*.json"))) == 2, timeout_s=270)
        yield registry
    finally:
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=60)
        assert KEY not in printed


@pytest.fixture
def entries(registry):
    found = [json.loads(path.read_text()) for path in registry.glob("*.json")]
    return {entry["kind"]: entry for entry in found}


def test_the_engine_passes_it_on_and_shows_it_nowhere(
    registry, entries, trained, tmp_path, monkeypatch
):
    monkeypatch.setenv(VARIABLE, KEY)
    config = {"registry": registry, "api_key_env": VARIABLE}
    with open_engine(None, trained, tmp_path, **config) as (engine, messages):
        engine.update_weights(hf_tensors(trained).items(), 1)
        samples = engine.generate(requests_of(PROMPTS, 2), SHORT, seed=0)
        assert_complete(samples, 2, version=1)
        workers = httpx.get(f"{entries['router']['url']}/workers", headers=bearer(KEY)).json()
        assert [worker["url"] for worker in workers["workers"]] == [entries["server"]["url"]]
        assert messages == []
    for path in [*registry.iterdir(), *tmp_path.rglob("*")]:
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path
    for entry in entries.values():
        for pid in descendants(entry["pid"]):
            assert KEY.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("key", [None, "another-key"])
def test_without_the_right_one_the_run_ends_with_one_line(
    registry, entries, trained, tmp_path, monkeypatch, key
):
    if key is not None:
        monkeypatch.setenv(VARIABLE, key)
    config = {"registry": registry} | ({} if key is None else {"api_key_env": VARIABLE})
    with (
        pytest.raises(UserError, match=r"refused with status 401; rollout\.servers\.api_key_env"),
        open_engine(None, trained, tmp_path, **config),
    ):
        pass
    for entry, path in ((entries["server"], "/generate"), (entries["router"], "/workers")):
        assert httpx.get(entry["url"] + path, headers=bearer(str(key))).status_code == 401


def test_a_variable_that_is_not_set_is_named(registry, trained, tmp_path):
    config = {"registry": registry, "api_key_env": "NOT_SET_ANYWHERE"}
    with (
        pytest.raises(UserError, match=r"api_key_env: the environment has no NOT_SET_ANYWHERE"),
        open_engine(None, trained, tmp_path, **config),
    ):
        pass


def bearer(key):
    return {"Authorization": f"Bearer {key}"}
