"""A run on several sources: shares and metrics of each; killed, it goes on to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_stare.checkpoint.folders import steps_of
from megatron_stare.config.data import SourceConfig
from megatron_stare.data.tasks import generate_problems
from tests.e2e.kills import assert_same_run, finish, start
from tests.e2e.programs import make_workspace, metrics_of, write_jsonl
from tests.gym import needs_gym

pytestmark = [needs_gym, pytest.mark.slow]

WEIGHTS = {"easy": 2.0, "hard": 1.0, "words": 1.0}
WORDS = {"task": "spell_backward", "size": 12, "params": {"max_word_len": 4}}
SETTINGS = (
    *("data.path=null", "data.max_prompt_tokens=80", "train.max_tokens_per_micro_batch=160"),
    *("rollout.max_rounds=20", "algorithm.curriculum=vade", "log.dump_samples=true"),
)


def sources_of(workspace: Path) -> dict[str, Any]:
    """Recorded groups that are partly right, that are never right, and of a task, partly right."""
    rows = (workspace / "prompts.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("easy", rows[:7]), ("hard", rows[7:])):
        (workspace / f"{name}.jsonl").write_text("".join(part))
    words = generate_problems(SourceConfig.model_validate(WORDS), "words").rows
    hard = {json.loads(row)["prompt"] for row in rows[7:]}
    recorded = map(json.loads, (workspace / "replay.jsonl").read_text().splitlines())
    records = [
        record | ({"response": "no"} if record["prompt"] in hard else {}) for record in recorded
    ]
    for row in words:
        right = row.fields["answer"]
        for response in (right, right[:1], f"<answer>{right}</answer>", "?"):
            records.append({"prompt": row.fields["question"], "response": response})
    write_jsonl(workspace / "replay.jsonl", records * 2)  # Some are for the evaluation.
    sources = {
        "easy": {"path": str(workspace / "easy.jsonl")},
        "hard": {"path": str(workspace / "hard.jsonl")},
        "words": WORDS,
    }
    return {name: source | {"weight": WEIGHTS[name]} for name, source in sources.items()}


def test_a_run_on_sources_that_is_killed_goes_on_to_the_bit(tmp_path):
    workspace = make_workspace(tmp_path / "workspace", num_hidden_layers=1)
    sources = yaml.safe_dump(sources_of(workspace), default_flow_style=True, width=10**6).strip()
    settings = (*SETTINGS, f"data.sources={sources}")
    easy = {"easy": {"path": str(workspace / "easy.jsonl")}}
    settings = (*settings, f"eval.data={{sources: {json.dumps(easy)}}}")
    expected = finish(workspace, tmp_path / "whole", *settings)
    killed = tmp_path / "killed"
    with start(workspace, killed, *settings) as running:
        running.wait_for_lines(1)
        running.wait_for(lambda: bool(steps_of(killed / "checkpoints")))
        running.kill()
    found = finish(workspace, killed, *settings, "run.resume=must")
    assert_same_run(found, expected)
    check_metrics(metrics_of(expected), expected)


def check_metrics(steps: list[dict[str, float]], run: Path) -> None:
    drawn = {name: sum(step.get(f"source/{name}/drawn", 0) for step in steps) for name in WEIGHTS}
    total = sum(step.get("rollout/drawn", 0) for step in steps)
    assert sum(drawn.values()) == total > 24, "dynamic sampling has drawn again"
    for name, weight in WEIGHTS.items():
        assert abs(drawn[name] - total * weight / sum(WEIGHTS.values())) < 1, name
    seen = {key: value for step in steps for key, value in step.items()}
    assert [seen[f"source/{name}/accuracy"] for name in WEIGHTS] == [0.5, 0.0, 0.5]
    assert [seen[f"source/{name}/signal_share"] for name in WEIGHTS] == [1.0, 0.0, 1.0]
    assert 0.5 < seen["source/words/reward"] < 0.7, "partial credit"
    assert seen["source/hard/completed"] == 0
    assert seen["eval/source/easy/avg_at_k"] == seen["eval/avg_at_k"]
    dumped = map(json.loads, (run / "samples/step_000001.jsonl").read_text().splitlines())
    assert {sample["source"] for sample in dumped} == {*WEIGHTS}
