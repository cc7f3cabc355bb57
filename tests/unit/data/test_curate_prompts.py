"""Operators that choose problems from a pool: what each keeps, in the order they are given."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.unit.rollout.problems import write_jsonl
from tools.curate_prompts import _entropy, _grams, _hash, main

TRIANGLE = "A triangle has sides of length 3, 4 and 5 and a right angle; what is its area in all?"


def exit_code_of(tmp_path: Path, rows: list, *operators: object) -> int:
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    return main([str(pool), str(tmp_path / "chosen.jsonl"), *map(str, operators)])


def chosen(tmp_path: Path, rows: list, *operators: object) -> list:
    assert exit_code_of(tmp_path, rows, *operators) == 0
    return [json.loads(line) for line in (tmp_path / "chosen.jsonl").read_text().splitlines()]


def prompts(rows: list) -> list[str]:
    return [row["prompt"] for row in rows]


def test_bounds_hold_at_their_ends_and_rows_stay_as_they_are(tmp_path):
    rows = [{"prompt": "x" * n, "pass_rate": n / 8, "answer": [n]} for n in range(9)]
    assert chosen(tmp_path, rows, "--length", 2, 4) == rows[2:5]
    assert chosen(tmp_path, rows, "--pass-rate", 0.25, 0.5) == rows[2:5]
    other = [{"prompt": "x", "solved": 0.5}, {"prompt": "y", "solved": 1}]
    found = chosen(tmp_path, other, "--pass-rate", 0, 0.9, "--pass-rate-field", "solved")
    assert found == other[:1]


def test_operators_are_applied_in_their_order(tmp_path, capsys):
    """The first of two that are alike is too long: whether it counts is a matter of order."""
    rows = [{"prompt": TRIANGLE + " " * 50}, {"prompt": TRIANGLE}]
    length, dedup = ("--length", 0, 100), ("--dedup", 5, 0.8)
    assert chosen(tmp_path, rows, *length, *dedup) == rows[1:]
    assert exit_code_of(tmp_path, rows, *dedup, *length) == 2
    assert "nothing is left" in capsys.readouterr().err


def test_what_repeats_an_earlier_problem_is_left_out(tmp_path):
    rows = [
        {"prompt": TRIANGLE},
        {"prompt": TRIANGLE.upper().replace(";", ",")},
        {"prompt": TRIANGLE.replace("5", "6")},
        {"prompt": "2+3"},
        {"prompt": "2-3"},
        {"prompt": "2 + 3"},
        {"prompt": [{"role": "user", "content": TRIANGLE}]},
        {"prompt": ""},
    ]
    assert chosen(tmp_path, rows, "--dedup", 5, 0.8) == [rows[i] for i in (0, 2, 3, 4, 7)]
    assert len(chosen(tmp_path, rows, "--dedup", 5, 0.3)) == 4


def test_repeats_are_those_that_comparing_all_with_all_finds(tmp_path):
    rng = random.Random(0)
    words = [f"w{i}" for i in range(200)]
    texts = [" ".join(rng.choices(words, k=30)) for _ in range(60)]
    for text in list(texts):
        changed = text.split()
        changed[rng.randrange(30)] = "other"
        texts.append(" ".join(changed[: rng.randint(24, 30)]))
    rng.shuffle(texts)
    found = chosen(tmp_path, [{"prompt": text} for text in texts], "--dedup", 3, 0.75)
    left: list[str] = []
    for text in texts:
        grams = {*map(_hash, _grams(text, 3))}
        others = ({*map(_hash, _grams(other, 3))} for other in left)
        if all(len(grams & other) / len(grams | other) < 0.75 for other in others):
            left.append(text)
    assert prompts(found) == left
    assert 60 < len(left) < 110


def test_golden_entropy_and_the_share_that_has_most_of_it(tmp_path):
    assert _entropy(Counter(a=7, b=2, c=1)) == pytest.approx(0.801819, abs=1e-6)
    rows = [{"prompt": text} for text in ("a a a a", "a b c d", "a a b b", "a a a b")]
    assert prompts(chosen(tmp_path, rows, "--top-entropy", 1, 0.5)) == ["a b c d", "a a b b"]
    assert prompts(chosen(tmp_path, rows, "--top-entropy", 1, 0.1)) == ["a b c d"]


def test_the_share_with_the_largest_score_of_a_field(tmp_path):
    """By hand: IFD is the loss of an answer with its question, over that without."""
    rows = [{"prompt": str(i), "ifd": a / b} for i, (a, b) in enumerate([(1, 4), (12, 16), (1, 1)])]
    rows.append({"prompt": "3", "ifd": 0.75})
    assert prompts(chosen(tmp_path, rows, "--top", "ifd", 0.5)) == ["1", "2"]
    assert prompts(chosen(tmp_path, rows, "--top", "ifd", 0.75)) == ["1", "2", "3"]
    many = [{"prompt": str(i), "score": i} for i in range(30)]
    assert len(chosen(tmp_path, many, "--top", "score", 0.1)) == 3


def test_it_says_what_each_operator_left_out_and_what_is_left(tmp_path, capsys):
    rows = [{"prompt": "x" * n, "pass_rate": n / 4} for n in (1, 2, 3, 4)]
    chosen(tmp_path, rows, "--length", 2, 4, "--pass-rate", 0, 0.9)
    pool, length, rate = capsys.readouterr().out.splitlines()
    assert pool.endswith(
        "4 rows, 100.0% of the pool and 100.0% of its characters; 2 characters; "
        "pass_rate 0.625 +- 0.280 of 4"
    )
    assert length.startswith(
        "--length 2 4: 1 left out; 3 rows, 75.0% of the pool and 90.0% of its characters; 3 "
    )
    assert rate.startswith("--pass-rate 0 0.9: 1 left out; 2 rows, 50.0% of the pool and 50.0% of")


def test_the_same_comes_out_every_time(tmp_path):
    rows = [{"prompt": f"{TRIANGLE} {i % 7}", "pass_rate": 0.5} for i in range(50)]
    operators = ("--dedup", 4, 0.7, "--top-entropy", 2, 0.5)
    assert chosen(tmp_path, rows, *operators) == chosen(tmp_path, rows, *operators)


@pytest.mark.parametrize(
    ("content", "operators", "message"),
    [
        ("", ["--length", "1", "2"], "pool.jsonl: is empty"),
        ('{"prompt": "x"}\n{', ["--length", "1", "2"], "pool.jsonl:2: no JSON"),
        ("[1]", ["--length", "1", "2"], "pool.jsonl:1: no text in field 'prompt'"),
        ('{"prompt": [{"role": "user"}]}', ["--length", "1", "2"], "pool.jsonl:1: no text"),
        ('{"prompt": "x"}', ["--pass-rate", "0", "1"], "pool.jsonl:1: pass_rate=None, expected"),
        ('{"prompt": "x", "pass_rate": 3}', ["--pass-rate", "0", "1"], ":1: pass_rate=3, expected"),
        ('{"prompt": "x"}', ["--top", "ifd", "0.5"], "pool.jsonl:1: ifd=None, expected a number"),
        ('{"prompt": "x"}', ["--top", "ifd", "2"], "--top ifd 2: expected a field, and a share"),
        ('{"prompt": "x"}', ["--length", "1", "x"], "--length 1 x: expected a number, found 'x'"),
        ('{"prompt": "x"}', [], "no operator"),
        ('{"prompt": "x"}', ["--length", "3", "2"], "--length 3 2: expected the lower bound first"),
        ('{"prompt": "x"}', ["--dedup", "nan", "0.5"], "--dedup nan 0.5: expected whole words"),
        ('{"prompt": "x"}', ["--dedup", "5", "80"], "--dedup 5 80: expected whole words"),
        ('{"prompt": "x"}', ["--length", "2", "3"], "pool.jsonl: nothing is left"),
        (None, ["--length", "1", "2"], "pool.jsonl: cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    tmp_path, capsys, content, operators, message
):
    pool, out = tmp_path / "pool.jsonl", tmp_path / "out.jsonl"
    if content is not None:
        pool.write_text(content)
    assert main([str(pool), str(out), *operators]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("curate_prompts: error: ")
    assert message in line
    assert not out.exists()
