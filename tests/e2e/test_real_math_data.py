"""The math reward on real model responses and real reference solutions.

The data stands beside the checkout and is no part of it; without it these tests are skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_stare.config.algorithm import RewardConfig
from megatron_stare.config.data import DataConfig
from megatron_stare.data.prompts import PromptSet
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.types import Prompt, Reward, Sample
from tests.models import make_tokenizer

DATA = Path(__file__).parents[2] / "../shared/data"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the data sets in {DATA}")


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    config = RewardConfig(kind="math", workers=2, deadline_s=5.0)
    with Scorer(config, max_response_tokens=4096) as scorer:
        yield scorer


def read_jsonl(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def score(scorer: Scorer, pairs: list[tuple[str, str]]) -> list[Reward]:
    """Rewards of (response, answer) pairs."""
    return scorer.score(
        [
            Sample(Prompt("", "", "", (), answer), 0, response, (), (), (), "stop", (), 0.0)
            for response, answer in pairs
        ]
    )


def test_it_agrees_with_the_recorded_scores_but_for_one_response_where_it_is_right(scorer: Scorer):
    problems = read_jsonl("math_recorded_rollouts.jsonl")
    cases = [
        (problem["id"], index, response, problem["answer"], recorded)
        for problem in problems
        for index, (response, recorded) in enumerate(
            zip(problem["responses"], problem["scores"], strict=True)
        )
    ]
    rewards = score(scorer, [(response, answer) for *_, response, answer, _ in cases])

    assert len(cases) == 400
    assert not any(reward.failure for reward in rewards)
    disagreements = [
        (name, index, recorded, reward.correct)
        for (name, index, _, _, recorded), reward in zip(cases, rewards, strict=True)
        if reward.correct != float(recorded)
    ]
    # The reference is 10{,}000 and the response ends in \boxed{10000}: docs/rewards.md.
    assert disagreements == [("math-72", 7, False, 1.0)]


@pytest.mark.parametrize("whole_solution", [False, True], ids=["number", "whole solution"])
def test_every_gsm8k_solution_earns_the_reward(scorer: Scorer, whole_solution: bool):
    solutions = [row["answer"] for row in read_jsonl("gsm8k_test.jsonl")]
    references = [s if whole_solution else s.rpartition("####")[2].strip() for s in solutions]
    rewards = score(scorer, list(zip(solutions, references, strict=True)))
    assert len(rewards) == 1319
    assert all(reward.value == 1.0 for reward in rewards)


def test_gsm8k_solutions_are_not_rewarded_for_the_next_problem(scorer: Scorer):
    solutions = [row["answer"] for row in read_jsonl("gsm8k_test.jsonl")]
    numbers = [solution.rpartition("####")[2].strip() for solution in solutions]
    others = numbers[1:] + numbers[:1]
    rewards = score(scorer, list(zip(solutions, others, strict=True)))
    for number, other, reward in zip(numbers, others, rewards, strict=True):
        assert reward.correct == float(number.replace(",", "") == other.replace(",", ""))


@pytest.mark.parametrize(
    ("name", "prompt_field", "num_rows"),
    [
        ("gsm8k_train.jsonl", "question", 7473),
        ("gsm8k_test.jsonl", "question", 1319),
        ("aime24.jsonl", "problem", 30),
        ("amc23.jsonl", "problem", 40),
        ("math_recorded_rollouts.jsonl", "problem", 50),
    ],
)
def test_the_data_sets_are_prompt_sets_whose_own_answers_earn_the_reward(
    scorer: Scorer, name: str, prompt_field: str, num_rows: int
):
    config = DataConfig(path=DATA / name, prompt_field=prompt_field, max_prompt_tokens=4096)
    prompts = PromptSet(config, make_tokenizer(), seed=1).all()
    assert len(prompts) == num_rows
    rewards = score(scorer, [(prompt.answer, prompt.answer) for prompt in prompts])
    boxed = score(scorer, [(rf"\boxed{{{p.answer}}}", p.answer) for p in prompts if name[0] != "g"])
    assert all(reward.value == 1.0 for reward in rewards + boxed)


def test_an_answer_too_large_to_compute_costs_its_own_deadline(scorer: Scorer):
    pairs = [(r"\boxed{9^{9^{9}}}", "5"), (r"\boxed{\frac{1}{2}}", "0.5")]
    tower, half = score(scorer, pairs)
    assert (tower.correct, tower.failure) == (0.0, "deadline of 5 s")
    assert (half.correct, half.failure) == (1.0, None)
