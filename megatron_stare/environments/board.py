"""Games of two players from OpenSpiel: a policy against itself, or against a fixed opponent."""

from __future__ import annotations

import random
import re
from typing import Any

import pyspiel  # pyright: ignore[reportMissingImports]

from megatron_stare.environments.environment import Start, Step

_PERFECT = pyspiel.GameType.Information.PERFECT_INFORMATION
_SEQUENTIAL = pyspiel.GameType.Dynamics.SEQUENTIAL


class Board:
    """A game by OpenSpiel's name; a move is the last legal one that a turn names.

    Both players' turns are the policy's, with `opponent` self, and their roles are `player_0` and
    `player_1`. Both read the whole conversation: a game in which players hide something needs an
    opponent. Against one the role is that of the policy's player, drawn from the seed. Each player
    earns the game's utility; whoever names no legal move, its least, and the other its greatest.

    Args:
        game: tic_tac_toe, connect_four, kuhn_poker, or with parameters, as OpenSpiel reads them.
        opponent: self, random, or mcts (perfect information alone) with `simulations` a move.
    """

    def __init__(
        self, game: str = "tic_tac_toe", opponent: str = "self", simulations: int = 100
    ) -> None:
        self._game = pyspiel.load_game(game)
        kind = self._game.get_type()
        if self._game.num_players() != 2 or kind.dynamics != _SEQUENTIAL:
            raise ValueError(f"game={game}: expected one of two players who take turns")
        if opponent not in ("self", "random", "mcts"):
            raise ValueError(f"opponent={opponent}: expected self, random or mcts")
        if opponent != "random" and kind.information != _PERFECT:
            raise ValueError(
                f"opponent={opponent} with game={game}, whose players do not see all: expected "
                "random; in self-play each would read what the other hides"
            )
        self._opponent, self._simulations = opponent, simulations
        self._random = random.Random(0)
        self._own: int | None = None
        """The policy's player; None where it is both."""
        self._bot: Any = None
        self._state: Any = None

    def reset(self, start: Start) -> str:
        """Of a seed, which draws cards, the policy's player, and the opponent's moves."""
        self._random = random.Random(f"board/{start}")
        self._own = None if self._opponent == "self" else self._random.randrange(2)
        if self._opponent == "mcts":
            seed = self._random.randrange(2**31)
            rollouts = pyspiel.RandomRolloutEvaluator(1, seed)
            parts = (self._game, rollouts, 2.0, self._simulations, 64, True, seed, False)
            self._bot = pyspiel.MCTSBot(*parts)
        self._state = self._game.new_initial_state()
        return f"A game of {self._game.get_type().long_name}.\n{self._go_on()}"

    def step(self, text: str) -> Step:
        """A move of the player whose turn it is."""
        player, state = self._state.current_player(), self._seen(self._state.current_player())
        role, other = f"player_{player}", f"player_{1 - player}"
        action = self._named(text)
        if action is None:
            least, most = self._game.min_utility(), self._game.max_utility()
            said = "That names no legal move: the game is lost."
            return Step(said, least, True, role, state, {other: most})
        self._state.apply_action(action)
        said = self._go_on()
        if not self._state.is_terminal():
            return Step(said, 0.0, False, role, state)
        utilities = self._state.returns()
        return Step(said, utilities[player], True, role, state, {other: utilities[1 - player]})

    def _go_on(self) -> str:
        """Chance and the opponent move; then, what the policy's next turn reads."""
        moved = ""
        while not self._state.is_terminal():
            player = self._state.current_player()
            if self._state.is_chance_node():
                actions, weights = zip(*self._state.chance_outcomes(), strict=True)
                self._state.apply_action(self._random.choices(actions, weights)[0])
            elif player == self._own or self._own is None:
                legal = ", ".join(map(self._state.action_to_string, self._state.legal_actions()))
                return f"{moved}{self._seen(player)}\nYou are player {player}. Moves: {legal}"
            else:
                action = self._chosen()
                moved += f"Player {player} plays {self._state.action_to_string(action)}.\n"
                self._state.apply_action(action)
        return f"{moved}{self._seen(0 if self._own is None else self._own)}\nThe game is over."

    def _chosen(self) -> int:
        if self._bot is not None:
            return self._bot.step(self._state)
        return self._random.choice(self._state.legal_actions())

    def _named(self, text: str) -> int | None:
        found: tuple[int, int] = (-1, -1)
        for action in self._state.legal_actions():
            name = re.escape(self._state.action_to_string(action))
            for match in re.finditer(rf"(?<!\w){name}(?!\w)", text, re.IGNORECASE):
                found = max(found, (match.start(), action))
        return found[1] if found[1] >= 0 else None

    def _seen(self, player: int) -> str:
        """What a player knows: the board, or the cards and bets that the player has seen."""
        if self._game.get_type().information == _PERFECT:
            return str(self._state)
        return str(self._state.information_state_string(player))
