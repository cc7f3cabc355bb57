"""Games of TextWorld, made in the process that environments have, and won by their quest."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from megatron_stare.config.environments import EnvironmentConfig, EnvironmentsConfig
from megatron_stare.environments.environment import Step
from megatron_stare.environments.pool import EnvironmentPool

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("textworld") is None, reason="textworld is not installed"),
]
GAME = EnvironmentConfig(name="textworld", params={"rooms": 1, "objects": 2, "quest_length": 1})


@pytest.fixture(scope="module")
def pool():
    config = EnvironmentsConfig(workers=1, deadline_s=600.0)
    with EnvironmentPool(config, max_attempts=1) as pool:
        yield pool


def played(pool: EnvironmentPool, *texts: str) -> list[Step]:
    """From the beginning: of one seed, which is made once."""
    return pool.play(pool.open(GAME, 5), texts)


def test_a_game_is_won_by_its_quest_alone(pool):
    """Of one step: some first command wins, and no other does."""
    (first,) = played(pool)
    assert "$" not in first.observation, "without the banner"
    assert "-= " in first.observation
    earned = {}
    for command in first.observation.rpartition("Commands: ")[2].split(", "):
        again, step = played(pool, f"Let me see.\n> {command}")
        assert again == first
        earned[command] = (step.reward, step.done)
    assert set(earned.values()) == {(0.0, False), (1.0, True)}


@pytest.mark.parametrize("text", ["", "fly to the moon"])
def test_a_command_that_is_none_is_told_and_earns_nothing(pool, text):
    _, step = played(pool, text)
    assert (step.reward, step.done) == (0.0, False)
    assert step.observation.partition("\n\nCommands: ")[0]
