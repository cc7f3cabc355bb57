"""Another try at a task of reasoning-gym, in the process that environments have."""

from __future__ import annotations

import pytest

from megatron_stare.config.data import SourceConfig
from megatron_stare.config.environments import EnvironmentConfig, EnvironmentsConfig
from megatron_stare.data.tasks import generate_problems
from megatron_stare.environments.environment import Step
from megatron_stare.environments.pool import EnvironmentFailure, EnvironmentPool
from tests.gym import needs_gym

pytestmark = [needs_gym, pytest.mark.slow]


@pytest.fixture(scope="module")
def pool():
    with EnvironmentPool(EnvironmentsConfig(workers=1), max_attempts=1) as pool:
        yield pool


@pytest.fixture(scope="module")
def row():
    source = SourceConfig(task="chain_sum", size=1, params={"max_terms": 2})
    (row,) = generate_problems(source, "data.sources.sums").rows
    return row.fields


def test_a_wrong_answer_may_be_followed_by_a_right_one(pool, row):
    tries = EnvironmentConfig(name="tries", params={"tries": 3, "discount": 0.25})
    texts = ["<answer>-1</answer>", f"<answer>{row['answer']}</answer>"]
    assert pool.play(pool.open(tries, row["entry"]), texts) == [
        Step(""),  # The problem itself is the prompt.
        Step("That is not right. Try again.", rewards={}),
        Step("That is right.", 0.75, True, rewards={}),
    ]


def test_a_last_try_has_its_score(pool, row):
    once = EnvironmentConfig(name="tries", params={"tries": 1})
    for text, expected in ((row["answer"], 1.0), ("nothing", 0.0)):
        (_, step) = pool.play(pool.open(once, row["entry"]), [text])
        assert (step.reward, step.done) == (expected, True)


def test_tries_that_cannot_be_are_refused(pool):
    none = EnvironmentConfig(name="tries", params={"tries": 0})
    with pytest.raises(EnvironmentFailure, match=r"ValueError: tries=0, .*: expected 1 or more"):
        pool.play(pool.open(none, 0), None)
