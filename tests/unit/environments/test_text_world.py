"""Games of TextWorld, made here: the same for the same seed, and won by their quest."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("textworld", reason="the optional package textworld is not installed")

from megatron_stare.environments.text_world import TextWorld

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("games")


@pytest.fixture(autouse=True)
def games(monkeypatch, folder):
    monkeypatch.setattr("tempfile.tempdir", str(folder))


def commands(observation: str) -> list[str]:
    return observation.rpartition("Commands: ")[2].split(", ")


def test_a_game_is_won_by_its_quest():
    """Of one step: some first command wins, and no other does."""
    game = TextWorld(rooms=1, objects=2, quest_length=1)
    first = game.reset(5)
    assert "$" not in first, "without the banner"
    assert re.search(r"-= .* =-", first)
    earned = {}
    for command in commands(first):
        assert game.reset(5) == first
        step = game.step(f"Let me see.\n> {command}")
        earned[command] = (step.reward, step.done)
    assert sorted(set(earned.values())) == [(0.0, False), (1.0, True)]


def test_a_command_that_is_none_is_told_and_earns_nothing(folder):
    game = TextWorld(rooms=1, objects=2, quest_length=1)
    game.reset(5)
    for text in ("", "fly to the moon"):
        step = game.step(text)
        assert (step.reward, step.done) == (0.0, False)
        assert step.observation
    assert len(list(folder.glob("*.z8"))) == 1, "it was made once"
