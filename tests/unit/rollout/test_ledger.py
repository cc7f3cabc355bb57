"""The books: every prompt drawn has exactly one ending."""

import pytest

from megatron_stare.rollout.ledger import Ledger
from tests.unit.rollout.problems import make_prompt

A, B, C = make_prompt("a"), make_prompt("b"), make_prompt("c")


@pytest.fixture
def ledger():
    ledger = Ledger()
    ledger.draw([A, B, C])
    return ledger


def test_counts_add_up_to_the_prompts_drawn(ledger):
    ledger.end([A], "completed")
    ledger.end([B], "failed")
    ledger.end([C], "completed")
    assert ledger.close() == {
        **{"completed": 2, "filtered": 0, "failed": 1, "aborted": 0},
        "carried": 0,
    }


def test_a_lost_prompt_is_named(ledger):
    ledger.end([A, C], "completed")
    with pytest.raises(RuntimeError, match="1 prompts have no ending: b"):
        ledger.close()


def test_no_second_ending(ledger):
    ledger.end([A], "completed")
    with pytest.raises(RuntimeError, match="a cannot end as filtered: it is completed"):
        ledger.end([A], "filtered")


def test_no_ending_without_being_drawn(ledger):
    with pytest.raises(RuntimeError, match="not in the books"):
        ledger.end([make_prompt("d")], "aborted")


def test_no_second_draw(ledger):
    with pytest.raises(RuntimeError, match="drawn twice"):
        ledger.draw([B])
