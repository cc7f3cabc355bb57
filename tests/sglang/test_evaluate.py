"""`megatron-stare eval` on two real servers, which had other weights."""

from __future__ import annotations

import json
import time
from itertools import groupby

import pytest

from tests.e2e.programs import (
    make_workspace,
    metrics_of,
    run_command,
    succeed,
    write_jsonl,
    write_yaml,
)
from tests.sglang.faults import BreakingProxy
from tests.sglang.servers import needs_servers

pytestmark = needs_servers

GREEDY = {"temperature": 1e-4, "samples_per_prompt": 2}


@pytest.fixture(scope="module")
def config(session_servers, trained, tmp_path_factory):
    """Two sets, asked of weights that the servers do not start with."""
    folder = tmp_path_factory.mktemp("evaluate")
    problems = [{"prompt": f"{n}+{n}=", "answer": str(2 * n)} for n in range(6)]
    write_jsonl(folder / "sums.jsonl", problems)
    write_jsonl(folder / "few.jsonl", problems[:2])
    write_yaml(
        folder / "eval.yaml",
        {
            "model": {"path": str(trained)},
            "rollout": {"engine": "sglang", "servers": {"registry": str(session_servers.registry)}},
            "reward": {"kind": "exact", "workers": 1},
            "eval": {
                "max_response_tokens": 8,
                "sets": {
                    "sums": {"data": {"path": str(folder / "sums.jsonl")}, **GREEDY},
                    "few": {"data": {"path": str(folder / "few.jsonl")}, "max_response_tokens": 5},
                },
            },
            "log": {"progress": False},
        },
    )
    return folder / "eval.yaml"


def samples_of(folder, name: str) -> dict[tuple[str, int], list[int]]:
    lines = (folder / f"eval_samples/{name}.jsonl").read_text().splitlines()
    samples = [*map(json.loads, lines)]
    return {(sample["prompt"], sample["index"]): sample["token_ids"] for sample in samples}


def test_servers_say_what_the_folder_says_and_are_asked_once(servers, config, tmp_path):
    """The likeliest tokens are those of the embedded engine, with the folder's weights."""
    on_servers, here = tmp_path / "servers", tmp_path / "embedded"
    said = succeed("eval", config, f"run.dir={on_servers}")
    assert all(title in said for title in ("sums", "few", "mean"))
    embedded = ("rollout.engine=embedded", "rollout.servers.registry=null")
    succeed("eval", config, f"run.dir={here}", *embedded)
    assert samples_of(on_servers, "sums") == samples_of(here, "sums")
    assert max(map(len, samples_of(on_servers, "few").values())) == 5
    assert [*(on_servers / "sync").iterdir()] == [], "no weights are left behind"
    again = succeed("eval", config, f"run.dir={on_servers}")
    assert "12 of 12 samples had been generated before" in again
    assert "2 of 2 samples had been generated before" in again


def test_without_an_answering_server_it_ends_with_one_line(config, tmp_path):
    settings = (
        "rollout.servers.registry=null",
        'rollout.servers.urls=["http://127.0.0.1:9"]',
        "rollout.servers.start_deadline_s=1",
    )
    done = run_command("eval", config, f"run.dir={tmp_path}/out", *settings)
    assert done.returncode == 2
    assert "http://127.0.0.1:9: no SGLang server answered" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_run_evaluates_while_it_generates_the_next_batch(servers, tmp_path):
    """No answer is let through before requests of both are there; steps are logged in order."""
    workspace = make_workspace(tmp_path)
    num_held_out, num_responses = 12, 16
    proxies = [BreakingProxy(url) for url in servers.urls]
    deadline = time.monotonic() + 240

    def is_alone() -> bool:
        asked = sum(proxy.num_asked for proxy in proxies)
        return asked < num_held_out + num_responses and time.monotonic() < deadline

    for proxy in proxies:
        proxy.holds = is_alone
    succeed(
        *("train", workspace / "train.yaml", "rollout.engine=sglang", "rollout.replay_path=null"),
        *("rollout.dynamic_sampling=false", "rollout.max_response_tokens=24", "train.steps=2"),
        f"rollout.servers.urls={json.dumps([proxy.url for proxy in proxies])}",
        *(f"eval.sets.sums.data.path={workspace}/prompts.jsonl", "eval.max_response_tokens=8"),
        *("eval.every=1", "eval.asynchronous=true"),
    )
    for proxy in proxies:
        proxy.close()
    assert time.monotonic() < deadline, "one waited for the other"
    steps = metrics_of(workspace / "run")
    assert [step["eval/set/sums/problems"] for step in steps] == [num_held_out] * 3
    logged = map(json.loads, (workspace / "run/metrics.jsonl").read_text().splitlines())
    kinds = [
        kind for kind, _ in groupby((line["step"], "eval/avg_at_k" in line) for line in logged)
    ]
    assert kinds == [(0, True), (1, False), (1, True), (2, False), (2, True)]
    for step in steps[1:]:
        assert step["rollout/completed"] == 4
        assert step["mismatch/max"] < 1e-4, "weights stayed until both were answered"
