"""Small files in each public set's layout become one format, without repeats or held-out ones."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tools.prepare_data import main

SHARED = Path(__file__).parents[4] / "shared" / "data"
WRAPPED = (
    "Solve the following math problem step by step. The last line of your response should be of "
    "the form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
    '{}\n\nRemember to put your answer on its own line after "Answer:".'
)
TRIANGLE = "A triangle has sides of length 3, 4 and 5 and a right angle; what is its area in all?"
SUM = "What is the sum of the first hundred positive integers that are even?"


def chat(problem: str, answer: str) -> dict:
    return {
        "prompt": [{"role": "user", "content": problem}],
        "reward_model": {"ground_truth": answer, "style": "rule"},
    }


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "file", "row"),
    [
        ("dapo", "dapo.parquet", chat(WRAPPED.format(SUM), "10100")),
        ("skywork", "math.parquet", chat(SUM, '["10100"]')),
        ("deepscaler", "deepscaler.json", {"problem": SUM, "answer": "10100", "solution": "..."}),
        ("polaris", "polaris.parquet", {"problem": SUM, "answer": "10100", "difficulty": "5/8"}),
        ("aime24", "test.jsonl", {"problem": SUM, "solution": "So \\boxed{10100}."}),
        ("aime25", "test.jsonl", {"problem": SUM, "answer": "10100", "id": "0"}),
        ("amc23", "test.jsonl", {"question": SUM, "answer": 10100}),
        ("math500", "test.jsonl", {"problem": SUM, "answer": "10100", "unique_id": "x"}),
        ("minerva", "test.jsonl", {"question": SUM, "answer": "10100"}),
        ("olympiadbench", "test.parquet", {"question": SUM, "final_answer": ["10100"]}),
    ],
)
def test_every_layout_becomes_the_same_row(name, file, row, tmp_path):
    side = "--eval" if file.startswith("test") else "--train"
    path = write(tmp_path / file, [row])
    assert main([str(tmp_path / "data"), side, f"{name}={path}"]) == 0
    written = f"{name}.jsonl" if side == "--eval" else "train.jsonl"
    expected = {"prompt": SUM, "answer": "10100", "source": name}
    assert read(tmp_path / "data" / written) == [expected]


def test_repeats_and_held_out_problems_are_left_out_and_counted(tmp_path, capsys):
    dapo = write(
        tmp_path / "dapo.parquet",
        [chat(WRAPPED.format(SUM), "10100"), chat(WRAPPED.format(SUM), "10100")],
    )
    polaris = write(
        tmp_path / "polaris.jsonl",
        [
            {"problem": SUM.upper().replace("?", " ?"), "answer": "10100"},
            {"problem": f"Let us begin. {TRIANGLE}", "answer": "6"},
            {"problem": "What is $2^{10}$?", "answer": "1024"},
            {"problem": "Solve $x^2 = 1$.", "answer": ["1", "-1"]},
            {"problem": "Prove it.", "answer": ""},
            {"problem": "Where is $x(1 - x) \\ge 0$?", "answer": "[0, 1]"},
        ],
    )
    amc = write(tmp_path / "amc.jsonl", [{"question": TRIANGLE, "answer": "6.0"}])
    sets = ["--train", f"dapo={dapo}", f"polaris={polaris}", "--eval", f"amc23={amc}"]
    assert main([str(tmp_path / "data"), *sets]) == 0
    train = read(tmp_path / "data" / "train.jsonl")
    assert [row["answer"] for row in train] == ["10100", "1024", "[0, 1]"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "amc23: 1 rows: 1 kept"
    assert printed[1] == "dapo: 2 rows: 1 kept, 1 twice in the set"
    for part in ("1 in a set before", "1 in an evaluation set", "1 2 answers", "2 kept"):
        assert part in printed[2]


def test_an_unknown_set_is_refused(tmp_path, capsys):
    assert main([str(tmp_path), "--train", "gsm=x.jsonl"]) == 2
    assert "'gsm=x.jsonl': expected NAME=FILE, NAME one of dapo" in capsys.readouterr().err


@pytest.mark.skipif(not SHARED.exists(), reason=f"no shared data at {SHARED}")
def test_the_real_aime_and_amc_are_kept_whole_and_apart(tmp_path):
    """As evaluation sets all rows are kept; as training sets none is left beside themselves."""
    aime, amc = SHARED / "aime24.jsonl", SHARED / "amc23.jsonl"
    own = write(tmp_path / "own.jsonl", [*read(aime), {"problem": SUM, "answer": "10100"}])
    sets = ["--eval", f"aime24={aime}", f"amc23={amc}", "--train", f"polaris={own}"]
    assert main([str(tmp_path / "data"), *sets]) == 0
    assert len(read(tmp_path / "data" / "aime24.jsonl")) == 30
    assert len(read(tmp_path / "data" / "amc23.jsonl")) == 40
    assert [row["prompt"] for row in read(tmp_path / "data" / "train.jsonl")] == [SUM]
