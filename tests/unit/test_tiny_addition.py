"""tiny_addition's data: sums worked right where no step slips, wrong where one does; no leaks."""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path
from random import Random

import pytest
from transformers import AutoConfig, AutoTokenizer

from examples.tiny_addition import make_data as demo
from examples.tiny_addition.verifier import sum_reward
from megatron_stare.weights.hf_config import read_hf_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny_addition")
    demo.make_data(folder, seed=1)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def true_sum(prompt: str) -> int:
    a, b = prompt.rstrip("=").split("+")
    return int(a) + int(b)


@pytest.mark.parametrize("way", demo.WAYS, ids=lambda way: way.__name__)
def test_every_way_is_right_when_no_step_slips(way) -> None:
    for a, b in islice(demo.distinct_problems(Random(3)), 500):
        steps, answer = demo.work(a, b, way, lambda result: result)
        assert answer == a + b
        assert all(sum(terms) == total for terms, total in steps)


def test_carries_that_ripple_and_numbers_of_unlike_length() -> None:
    for way in demo.WAYS:
        for a, b in ((9999, 1), (1, 9999), (5005, 4995), (999, 999)):
            assert demo.work(a, b, way, lambda result: result)[1] == a + b


def test_a_slip_is_said_and_carried_into_the_answer() -> None:
    slips = iter((1, 0, 0))
    steps, answer = demo.work(347, 589, demo.carry_last, lambda total: total + next(slips))
    assert steps == [([7, 9], 17), ([4, 8, 1], 13), ([3, 5, 1], 9)]
    assert answer == 937


def slipped_share(folder: Path, equals: str) -> float:
    """Of the small sums said with this word, how many are wrong."""
    step = re.compile(rf"(\d+(?:(?:{'|'.join(map(re.escape, demo.PLUS))})\d+)+){equals}(\d+)")
    found = [m for row in rows(folder / "sft.jsonl")[:4000] for m in step.finditer(row["response"])]
    slips = [sum(map(int, re.findall(r"\d+", m[1]))) != int(m[2]) for m in found]
    return sum(slips) / len(slips)


def test_slips_keep_company_with_careless_words(folder: Path) -> None:
    first, last = (demo.Wording(*(words[place] for words in demo.WORDS)) for place in (0, -1))
    assert (first.slip_rate, last.slip_rate) == (0, demo.MAX_SLIP_RATE)
    assert 0 < 2 * slipped_share(folder, first.equals) < slipped_share(folder, last.equals)


def test_the_verifier_tells_right_from_wrong_responses(folder: Path) -> None:
    examples = rows(folder / "sft.jsonl")[:400]
    verdicts = [sum_reward(e["response"], str(true_sum(e["prompt"]))) for e in examples]
    boxed = [re.findall(r"\\boxed\{(\d+)\}$", e["response"]) for e in examples]
    truth = [b == [str(true_sum(e["prompt"]))] for b, e in zip(boxed, examples, strict=True)]
    assert verdicts == [float(is_right) for is_right in truth]
    assert 0.4 < sum(verdicts) / len(verdicts) < 0.7


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        (r"3 plus 4=7 so \boxed{7}", 1.0),
        (r"\boxed{7}", 1.0),
        (r"3 plus 4=7 so \boxed{8}", 0.0),
        (r"3 plus 4=7 so \boxed{7}}", 0.0),
        (r"3 plus 4=7 so \boxed{7} so ", 0.0),
        (r"3 plus 4=7 so \boxed{7}" + "\n", 0.0),
        (r"so \boxed{8} then \boxed{7}", 0.0),
        (r"\boxed{07}", 0.0),
        (r"\boxed{3+4}", 0.0),
        (r"\boxed{}", 0.0),
        (r"so \boxed{7", 0.0),
        ("7", 0.0),
        ("", 0.0),
    ],
)
def test_nothing_may_follow_the_answer(response: str, verdict: float) -> None:
    assert sum_reward(response, "7") == verdict


def test_problems_are_in_one_file_only_and_have_their_answers(folder: Path) -> None:
    files = {path.stem: rows(path) for path in sorted(folder.glob("*.jsonl"))}
    assert set(files) == {"sft", "train", "heldout", "validation"}
    prompts = [row["prompt"] for rows_of_file in files.values() for row in rows_of_file]
    assert len(prompts) == len(set(prompts))
    for name in demo.NUM_PROBLEMS:
        assert all(row["answer"] == str(true_sum(row["prompt"])) for row in files[name])


def test_text_survives_the_tokenizer_and_chains_are_long_enough(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    examples = rows(folder / "sft.jsonl")[:400]
    lengths = []
    for example in examples:
        for text in example.values():
            ids = tokenizer(text).input_ids
            assert tokenizer.decode(ids) == text
        lengths.append(len(tokenizer(example["response"]).input_ids) + 1)
    assert min(lengths) >= 20
    assert 25 <= sum(lengths) / len(lengths) <= 40
    assert max(lengths) <= 64


def test_the_model_folder_is_a_small_qwen3_with_eos_and_pad(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert config.architectures == ["Qwen3ForCausalLM"]
    assert (config.pad_token_id, config.eos_token_id) == (0, 1)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert read_hf_config(folder / "model").vocab_size == len(tokenizer)


def test_the_same_seed_makes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    demo.make_data(tmp_path, seed=1)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()


def test_another_seed_makes_other_problems(folder: Path, tmp_path: Path) -> None:
    demo.make_data(tmp_path, seed=2)
    assert rows(tmp_path / "train.jsonl") != rows(folder / "train.jsonl")
