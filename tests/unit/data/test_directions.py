"""Directions among objectives: where they are drawn, how prompts say them, what is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random
from typing import Any

import pytest

from megatron_stare.cli import main
from megatron_stare.data.directions import Arc, keep_best, rating, reward_along
from tests.unit.rollout.problems import write_jsonl

NAMES = ("helpfulness", "verbosity")
MINUS_15 = (math.cos(math.radians(-15)), math.sin(math.radians(-15)))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_golden_direction_of_minus_15_degrees():
    """The authors' prompt for it, and the reward of three responses along it."""
    assert rating(NAMES, MINUS_15) == "helpfulness*97 + verbosity*-26"
    rewards = [reward_along(MINUS_15, r) for r in ((70.0, 40.0), (66.0, 20.0), (60.0, 70.0))]
    assert rewards == pytest.approx([57.262046, 58.574724, 39.838216], abs=1e-6)


@pytest.mark.parametrize("num_objectives", [2, 3, 5])
def test_directions_are_unit_vectors_about_the_first_objective(num_objectives):
    arc, random = Arc([str(i) for i in range(num_objectives)], degrees=30), Random(1)
    drawn = [arc.draw(random) for _ in range(400)]
    assert all(math.hypot(*v) == pytest.approx(1) for v in drawn)
    angles = [math.degrees(math.acos(v[0])) for v in drawn]
    assert max(angles) <= 30 + 1e-9
    assert sum(angles) / len(angles) == pytest.approx(15, abs=1.5), "uniform"
    for axis in range(1, num_objectives):
        assert min(v[axis] for v in drawn) < -0.1 < 0.1 < max(v[axis] for v in drawn)


PROMPTS = [{"prompt": "Romeo?", "answer": "no"}, {"prompt": [{"role": "user", "content": "Hm"}]}]


def test_prompts_get_directions_and_keep_the_rest(tmp_path):
    source, out = write_jsonl(tmp_path / "prompts.jsonl", PROMPTS), tmp_path / "out.jsonl"
    command = ["directions", "write", str(source), str(out), "--objectives", ",".join(NAMES)]
    assert main([*command, "--count", "3"]) == 0
    rows = read(out)
    assert len(rows) == 6
    assert len({tuple(row["direction"]) for row in rows}) == 6
    for row, asked in zip(rows, [p["prompt"] for p in PROMPTS for _ in range(3)], strict=True):
        system, user = row["prompt"]
        assert system["role"] == "system"
        assert system["content"].endswith(f"rating = {rating(NAMES, row['direction'])}")
        assert user == (asked[0] if isinstance(asked, list) else {"role": "user", "content": asked})
    assert [row.get("answer") for row in rows] == ["no"] * 3 + [None] * 3
    again = tmp_path / "again.jsonl"
    assert main([*command[:3], str(again), *command[4:], "--count", "3"]) == 0
    assert again.read_text() == out.read_text(), "a seed"
    assert main([*command[:3], str(again), *command[4:], "--count", "3", "--seed", "2"]) == 0
    assert again.read_text() != out.read_text()


def test_a_template_with_the_prompt_is_the_whole_text(tmp_path, capsys):
    source, out = write_jsonl(tmp_path / "prompts.jsonl", PROMPTS), tmp_path / "out.jsonl"
    options = ["--objectives", "a,b", "--degrees", "0", "--template", "[{rating}] {prompt}"]
    assert main(["directions", "write", str(source), str(out), *options]) == 0
    assert [row["prompt"] for row in read(out)] == ["[a*100 + b*0] Romeo?"]
    assert "1 of 2 rows used; left out: 1 field 'prompt' holds chat" in capsys.readouterr().out


def candidate(prompt: str, response: str, *rewards: float) -> dict[str, Any]:
    return {"prompt": prompt, "direction": MINUS_15, "response": response, "rewards": rewards}


def test_the_best_along_the_direction_is_kept_beside_the_worst(tmp_path):
    found = [
        candidate("a", "long", 70, 40),
        candidate("b", "alone", 1, 1),
        candidate("a", "short", 66, 20),
        candidate("a", "wordy", 60, 70),
        candidate("a", "short too", 66, 20),
    ]
    other = candidate("a", "long", 70, 40) | {"direction": [1, 0]}
    out = tmp_path / "out.jsonl"
    report = keep_best(write_jsonl(tmp_path / "candidates.jsonl", [*found, other]), out)
    assert (report.num_used, report.num_left_out) == (6, 0)
    first, alone, elsewhere = read(out)
    assert (first["response"], first["chosen"], first["rejected"]) == ("short", "short", "wordy")
    assert first["reward"] == pytest.approx(58.574724, abs=1e-6)
    assert first["direction"] == pytest.approx(MINUS_15)
    assert "rejected" not in alone
    assert (elsewhere["direction"], elsewhere["reward"]) == ([1, 0], 70)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rewards": [1]}, "fields 'direction' and 'rewards' differ in length"),
        ({"rewards": [1, True]}, "field 'rewards' holds no list of numbers"),
        ({"rewards": [1, math.nan]}, "field 'rewards' holds no list of numbers"),
        ({"direction": [1, 1]}, "field 'direction' has not length 1"),
        ({"response": ""}, "field 'response' is empty"),
        ({"prompt": None}, "field 'prompt' is null"),
    ],
)
def test_a_candidate_that_is_none_is_named(tmp_path, capsys, changes, reason):
    rows = [candidate("a", "x", 1, 2) | changes]
    source = write_jsonl(tmp_path / "candidates.jsonl", rows)
    assert main(["directions", "keep", str(source), str(tmp_path / "out.jsonl")]) == 2
    assert f"left out: 1 {reason} (candidates.jsonl:1)" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--objectives", "a"], "--objectives: expected two names or more that differ, found 'a'"),
        (["--objectives", "a,a"], "--objectives: expected two names"),
        (["--objectives", "a,"], "--objectives: expected two names"),
        (["--objectives", "a,b", "--template", "x"], "--template: expected a text with {rating}"),
        (["--objectives", "a,b", "--degrees", "200"], "degrees"),
    ],
)
def test_wrong_options_are_named(tmp_path, capsys, options, said):
    source = write_jsonl(tmp_path / "prompts.jsonl", PROMPTS)
    try:
        code = main(["directions", "write", str(source), str(tmp_path / "out"), *options])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
