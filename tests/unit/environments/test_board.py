"""Games of OpenSpiel: who plays, who earns what, and that a seed is a game."""

from __future__ import annotations

import pytest

pytest.importorskip("pyspiel", reason="the optional package open-spiel is not installed")

from megatron_stare.environments.board import Board
from megatron_stare.environments.environment import Step


def played(board: Board, texts: list[str], start: int = 1) -> list[Step]:
    board.reset(start)
    return [board.step(text) for text in texts]


def test_both_players_of_tic_tac_toe_are_the_policys_and_the_winner_earns():
    moves = ["x(0,0)", "o(1,1)", "x(0,1)", "o(2,2)", "I think of x(1,2), but play x(0,2)."]
    *_, before, last = played(Board(), moves)
    assert (before.done, before.reward, before.role) == (False, 0.0, "player_1")
    assert last.state == "xx.\n.o.\n..o", "the board that the turn was written at"
    assert (last.done, last.reward, last.role) == (True, 1.0, "player_0")
    assert last.rewards == {"player_1": -1.0}
    assert last.observation == "xxx\n.o.\n..o\nThe game is over."


@pytest.mark.parametrize("text", ["", "x(1,1)", "o(3,3)", "xo(0,1)x"])
def test_who_names_no_legal_move_has_lost(text):
    """Such as one that is taken, or the other player's."""
    _, step = played(Board(), ["x(1,1)", text])
    assert (step.done, step.reward, step.role) == (True, -1.0, "player_1")
    assert step.rewards == {"player_0": 1.0}


def test_a_draw_earns_nobody_anything():
    moves = ["x(0,0)", "o(1,1)", "x(2,2)", "o(0,1)", "x(2,1)", "o(2,0)", "x(0,2)", "o(1,2)"]
    last = played(Board(), [*moves, "x(1,0)"])[-1]
    assert (last.done, last.reward, dict(last.rewards)) == (True, 0.0, {"player_1": 0.0})


def test_what_players_hide_is_not_told():
    board = Board("kuhn_poker", "random")
    cards = {}
    for seed in range(40):
        said = board.reset(seed).splitlines()
        player = said[-1].partition("You are player ")[2][:1]
        cards.setdefault(player, set()).add(said[-2].strip("pb"))
    assert cards == {"0": {"0", "1", "2"}, "1": {"0", "1", "2"}}, "one's own card, of three"


@pytest.mark.parametrize("opponent", ["random", "mcts"])
def test_a_seed_is_a_game(opponent):
    def of(seed: int) -> list[str]:
        board = Board("connect_four", opponent, simulations=5)
        said = [board.reset(seed)]
        for column in "3344":
            mark = "x" if "player 0" in said[0].rpartition("You are")[2] else "o"
            said.append(board.step(f"{mark}{column}").observation)
        return said

    assert of(3) == of(3)
    assert len({tuple(of(seed)) for seed in range(8)}) > 1


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"game": "kuhn_poker"}, "expected random; in self-play each would read what the other"),
        ({"game": "kuhn_poker", "opponent": "mcts"}, "opponent=mcts with game=kuhn_poker"),
        ({"game": "2048"}, "game=2048: expected one of two players who take turns"),
        ({"opponent": "best"}, "opponent=best: expected self, random or mcts"),
    ],
)
def test_what_cannot_be_played_is_refused(params, message):
    with pytest.raises(ValueError, match=message):
        Board(**params)
