"""Text adventures of TextWorld, made here: a game for each seed, the same for the same seed.

A command is the last line that a turn has. Games are made once in the process's folder for
temporary files, where other processes find them.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import textworld  # pyright: ignore[reportMissingImports]
from textworld.generator import compile_game, make_game  # pyright: ignore[reportMissingImports]

from megatron_stare.environments.environment import Start, Step

_BANNER = re.compile(r".*\$\$\$\S*\s*\n", re.DOTALL)
_STATUS = re.compile(r">\s*-= [^\n]* =-\S*\s*$")
_END = "*** The End ***"


class TextWorld:
    """A game, won by a quest.

    Args:
        rooms, objects, quest_length: of the game, as TextWorld has them.
        shows_commands: whether an observation says which commands there are.
    """

    def __init__(
        self,
        rooms: int = 1,
        objects: int = 4,
        quest_length: int = 2,
        shows_commands: bool = True,
    ) -> None:
        self._options = {"nb_rooms": rooms, "nb_objects": objects, "quest_length": quest_length}
        self._shows_commands = shows_commands
        self._game: Any = None
        self._score = 0

    def reset(self, start: Start) -> str:
        """Of a seed."""
        asked = textworld.EnvInfos(admissible_commands=True, won=True, lost=True)
        self._game = textworld.start(str(_game_file(self._options, int(start))), asked)
        self._game.seed(int(start))
        self._score = 0
        return self._said(self._game.reset())

    def step(self, text: str) -> Step:
        """What the score has grown by is earned."""
        lines = text.strip().splitlines()
        state, score, done = self._game.step(lines[-1].strip(" >`*") if lines else "")
        earned, self._score = score - self._score, score
        return Step(self._said(state), float(earned), done or state.won or state.lost)

    def _said(self, state: Any) -> str:
        text = _STATUS.sub("", _BANNER.sub("", state.feedback))
        text = re.sub(r"\n{3,}", "\n\n", text.partition(_END)[0]).strip()
        if self._shows_commands and not (state.won or state.lost):
            text += f"\n\nCommands: {', '.join(sorted(state.admissible_commands))}"
        return text


def _game_file(options: dict[str, int], seed: int) -> Path:
    digest = hashlib.blake2b(repr((sorted(options.items()), seed)).encode(), digest_size=8)
    path = Path(tempfile.gettempdir()) / f"textworld-{digest.hexdigest()}.z8"
    if path.exists():
        return path
    settings = textworld.GameOptions()
    for name, value in options.items():
        setattr(settings, name, value)
    settings.seeds = seed
    with tempfile.TemporaryDirectory() as folder:
        settings.path = str(Path(folder) / path.name)
        made = Path(compile_game(make_game(settings), settings))
        os.replace(made.with_suffix(".json"), path.with_suffix(".json"))
        os.replace(made, path)  # Last: what is there is whole.
    return path
