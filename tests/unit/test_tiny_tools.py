"""tiny_tools: traces that say what tools say, data without leaks, measures that count by hand."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import batched
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from examples.tiny_tools import make_data as data
from examples.tiny_tools.measure import (
    by_kind,
    entropy_of,
    markdown_table,
    paired_table,
    summarise,
    wording_of,
)
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.compare import CompareConfig
from megatron_stare.config.sft import SftConfig
from megatron_stare.config_io import load_config
from megatron_stare.rollout.workflow.traces import open_traces
from megatron_stare.tools.calculator import calculate
from megatron_stare.weights.hf_config import read_hf_config

CONFIGS = Path(data.__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny_tools")
    data.make_data(folder, seed=1)
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def factors(problem: str) -> data.Problem:
    a, b = problem.split("*")
    return int(a), int(b)


class TestData:
    def test_the_same_seed_makes_the_same_bytes(self, folder: Path, tmp_path: Path) -> None:
        data.make_data(tmp_path, seed=1)
        for path in (path for path in folder.rglob("*") if path.is_file()):
            assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()

    def test_products_beside_the_table_are_in_one_file_in_either_order(self, folder: Path) -> None:
        traces = [row["messages"][0]["content"] for row in rows(folder / "sft.jsonl")]
        parts = [traces, *([row["prompt"] for row in held(folder, n)] for n in data.NUM_PROBLEMS)]
        found = [factors(problem) for part in parts for problem in part]
        others = [frozenset(problem) for problem in found if not data.is_of_table(problem)]
        assert len(others) == len(set(others))
        assert len(others) / len(found) == pytest.approx(1 - data.SHARE_OF_TABLE, abs=0.01)

    def test_answers_are_products(self, folder: Path) -> None:
        for name, count in data.NUM_PROBLEMS.items():
            found = held(folder, name)
            assert len(found) == count
            for row in found:
                a, b = factors(row["prompt"])
                assert row["answer"] == str(a * b)

    def test_traces_say_what_the_tools_say(self, folder: Path) -> None:
        """Of the calculator by itself; of programs as Python runs them."""
        seen = Counter[str]()
        for row in rows(folder / "sft.jsonl")[:600]:
            for turn, told in zip(row["messages"], row["messages"][1:], strict=False):
                for call in turn.get("tool_calls", ()):
                    function = call["function"]
                    (argument,) = function["arguments"].values()
                    seen[function["name"]] += 1
                    if function["name"] == "calculator":
                        assert told["content"] == calculate(argument)
                    else:
                        printed: list[str] = []
                        exec(argument, {"print": lambda value, to=printed: to.append(f"{value}\n")})
                        assert told["content"] == "".join(printed)
        assert min(seen["calculator"], seen["python"]) > 150

    def test_about_half_of_the_traces_are_right(self, folder: Path) -> None:
        """Of products beside the table, those that call; what answers at once is always right."""
        right = Counter[bool]()
        for row in rows(folder / "sft.jsonl"):
            a, b = factors(row["messages"][0]["content"])
            is_right = row["messages"][-1]["content"].endswith(f" \\boxed{{{a * b}}}")
            has_called = len(row["messages"]) > 2
            assert is_right or has_called
            if has_called and not data.is_of_table((a, b)):
                right[is_right] += 1
        assert 0.5 < right[True] / right.total() < 0.8

    def test_slips_keep_company_with_careless_words(self) -> None:
        words = [data.draw_words(("a", "b"), ("c", "d"), Random(seed)) for seed in range(40)]
        rates = {str(found): found.slip_rate for found in words}
        assert rates["ac"] == 0
        assert rates["ad"] == rates["bc"] == data.MAX_SLIP_RATE / 4
        assert rates["bd"] == data.MAX_SLIP_RATE
        assert data.slipped(7, 0.0, Random(1)) == 7
        assert data.slipped(7, 1.0, Random(1)) != 7

    def test_numbers_of_three_digits_are_two_tokens_and_their_products_three(
        self, folder: Path
    ) -> None:
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        assert tokenizer.tokenize("347*589") == ["3", "47", "*", "5", "89"]
        assert tokenizer.tokenize("204383") == ["20", "43", "83"]
        assert tokenizer.tokenize("40000") == ["4", "00", "00"]

    def test_traces_become_tokens_that_read_as_they_were_written(self, folder: Path) -> None:
        config = load_config(
            SftConfig,
            CONFIGS / "sft.yaml",
            [f"model.path={folder / 'model'}", f"data.path={folder / 'sft.jsonl'}"],
        )
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        traces = open_traces(config, tokenizer)
        # Few print nothing again and again, and are too long.
        assert data.NUM_TRACES - 5 < len(traces) <= data.NUM_TRACES
        batch = traces.draw(200)
        parts = batch.token_ids.split(
            torch.stack([batch.prompt_lengths, batch.response_lengths]).T.flatten().tolist()
        )
        for prompt, response in batched(parts, 2):
            text = tokenizer.decode(prompt, skip_special_tokens=True)
            assert re.fullmatch(r"calculator \d{3}\*\d{3}", text)
            assert tokenizer.pad_token_id not in response.tolist()
        assert read_hf_config(folder / "model").vocab_size == len(tokenizer)


def held(folder: Path, name: str) -> list[dict[str, Any]]:
    return rows(folder / f"{name}.jsonl")


def turn(kind: str, text: str = "", calls: int = 0, invalid: int = 0, ok: int = 0) -> dict:
    return {"kind": kind, "text": text, "num_calls": calls, "num_invalid": invalid, "num_ok": ok}


def sample(problem: str, correct: float, *turns: dict) -> dict[str, Any]:
    prompt = f"calculator python {problem}"
    return {"prompt": prompt, "correct": correct, "turns": list(turns)}


ASKS = turn("model", 'first get {"name": "python", "arguments": {"code": "5"}}', calls=1)
MEASURED = [
    sample(
        "347*589",
        1.0,
        turn("model", "now get 347*589", calls=1),
        turn("observation", "204383", ok=1),
        turn("model", "thus is 204383"),
    ),
    sample("347*589", 0.0, ASKS, turn("observation"), turn("model", "thus is 7", invalid=1)),
    sample("300*400", 1.0, turn("model", "thus is 120000")),
]


class TestMeasures:
    def test_a_policy_by_hand(self) -> None:
        found = summarise(MEASURED, [sample("347*589", 0.0), sample("300*400", 1.0)])
        assert found == {
            "right": 0.5,
            "right_alone": 0.0,
            "table_right": 1.0,
            "table_alone": 1.0,
            "table_called": 0.0,
            "called": 1.0,
            "well_formed": pytest.approx(2 / 3),
            "went_well": 0.5,
            "by_python": pytest.approx(1 / 3),
            "calls": 1.0,
            "wordings": 1,
        }

    def test_products_of_the_table_stand_apart(self) -> None:
        others, table = by_kind(MEASURED)
        assert (others, table) == (MEASURED[:2], MEASURED[2:])

    def test_wordings_are_what_the_model_wrote_with_its_numbers_masked(self) -> None:
        assert wording_of(MEASURED[0]) == "now get #*#\nthus is #"

    def test_entropy_is_of_the_last_half(self, tmp_path: Path) -> None:
        steps = [(1, 9.0), (2, 9.0), (3, 0.5), (4, 0.8)]
        lines = [{"step": n, "entropy/mean": x, "stare/target": 0.5} for n, x in steps]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        assert entropy_of(tmp_path) == {"entropy": pytest.approx(0.65), "in_band": 0.5}

    def test_tables_have_a_row_a_policy_and_differences_of_its_seeds(self) -> None:
        found = summarise(MEASURED, MEASURED)
        measures = {
            ("sft", 1): found,
            ("grpo", 1): found | {"entropy": 0.1},
            ("stare", 1): found | {"entropy": 0.4, "right": 0.75, "in_band": 1.0},
        }
        header, rule, *policies = markdown_table(measures).splitlines()
        assert len({line.count("|") for line in (header, rule, *policies)}) == 1
        assert policies[2].startswith("| 1 | stare | 75.0 | ")
        assert policies[2].endswith(" | 0.40 | 100 |")
        paired = paired_table(measures, "stare", "grpo").splitlines()
        assert paired[2] == "| right | +25.00 |  |"
        assert paired[-1] == "| entropy (nats) | +0.30 |  |"


class TestConfigs:
    def test_those_by_hand_are_accepted(self) -> None:
        sft = load_config(SftConfig, CONFIGS / "sft.yaml")
        train = load_config(TrainConfig, CONFIGS / "train.yaml")
        assert (sft.workflow, sft.tools) == (train.workflow, train.tools)
        assert train.eval.turns == train.rollout.turns

    def test_the_two_runs_differ_in_their_method(self) -> None:
        comparison = load_config(CompareConfig, CONFIGS / "compare.yaml")
        runs = [
            load_config(TrainConfig, CONFIGS / "train.yaml", comparison.overrides(name, 7))
            for name in comparison.arms
        ]
        grpo, stare = (run.model_copy(update={"run": None, "algorithm": None}) for run in runs)
        assert grpo == stare
        assert "sft-seed7" in str(stare.model.path)
