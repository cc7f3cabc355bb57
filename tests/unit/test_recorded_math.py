"""The replay example's data: mixed problems alone, text that survives, one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from examples.recorded_math import make_data as example
from megatron_stare.engines.recording import read_recordings
from megatron_stare.errors import UserError
from megatron_stare.rewards.math import math_reward

RECORDED = Path(__file__).parents[2] / "../shared/data/math_recorded_rollouts.jsonl"


def recorded_file(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def problem(scores: list[bool], name: str = "What is 1+1?") -> dict:
    responses = [f"So \\boxed{{{2 if score else 3}}} — {n}." for n, score in enumerate(scores)]
    return {"problem": name, "answer": "2", "responses": responses, "scores": scores}


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_only_problems_with_right_and_wrong_responses_are_kept(tmp_path: Path) -> None:
    recorded = recorded_file(
        tmp_path / "recorded.jsonl",
        problem([True, True], "all right"),
        problem([True, False, True], "mixed"),
        problem([False, False], "all wrong"),
    )
    assert example.make_data(recorded, tmp_path / "out") == 1
    assert rows(tmp_path / "out/prompts.jsonl") == [{"prompt": "mixed\n\n", "answer": "2"}]
    replay = rows(tmp_path / "out/replay.jsonl")
    assert [row["prompt"] for row in replay] == ["mixed\n\n"] * 3
    assert [math_reward(row["response"], "2") for row in replay] == [1.0, 0.0, 1.0]


def test_the_replay_engine_reads_what_was_written(tmp_path: Path) -> None:
    recorded = recorded_file(tmp_path / "recorded.jsonl", problem([True, False]))
    example.make_data(recorded, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out/model")
    recordings = read_recordings(
        tmp_path / "out/replay.jsonl", tokenizer, vocab_size=len(tokenizer)
    )
    texts = problem([True, False])["responses"]
    assert [recording.text for recording in recordings["What is 1+1?\n\n"]] == texts
    for recording in recordings["What is 1+1?\n\n"]:
        assert recording.token_ids[-1] == tokenizer.eos_token_id == 1
        assert tokenizer.decode(list(recording.token_ids[:-1])) == recording.text


def test_unseen_text_survives_the_tokenizer(tmp_path: Path) -> None:
    recorded = recorded_file(tmp_path / "recorded.jsonl", problem([True, False]))
    example.make_data(recorded, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out/model")
    text = "  \\frac{x}{y}\n\tπ ≤ 𝟙 , ok ."
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read recorded responses"),
        ("not json\n", r"recorded\.jsonl:1: expected problem, answer"),
        ('{"problem": "p", "answer": "a", "responses": ["r"]}\n', "KeyError: 'scores'"),
        (
            '{"problem": "p", "answer": "a", "responses": ["r"], "scores": []}\n',
            "as many scores",
        ),
        (json.dumps(problem([True, True])) + "\n", "both right and wrong"),
    ],
    ids=["absent", "not-json", "no-scores", "fewer-scores", "nothing-mixed"],
)
def test_bad_recordings_are_one_clear_error(
    tmp_path: Path, content: str | None, message: str
) -> None:
    recorded = tmp_path / "recorded.jsonl"
    if content is not None:
        recorded.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        example.make_data(recorded, tmp_path / "out")


@pytest.mark.skipif(not RECORDED.exists(), reason="no recorded rollouts beside the checkout")
def test_on_real_recordings_verdicts_are_those_recorded(tmp_path: Path) -> None:
    assert example.make_data(RECORDED, tmp_path) == 7
    answers = {row["prompt"]: row["answer"] for row in rows(tmp_path / "prompts.jsonl")}
    verdicts = [
        math_reward(row["response"], answers[row["prompt"]])
        for row in rows(tmp_path / "replay.jsonl")
    ]
    recorded = [row for row in example.read_recorded(RECORDED) if example.is_mixed(row)]
    assert verdicts == [float(score) for row in recorded for _, score in row["pairs"]]
