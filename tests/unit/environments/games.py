"""Environments of a user's own, good ones and bad ones."""

from __future__ import annotations

import os
import signal
import time


class Diary:
    """Says what it was told before; and does what it is told to.

    Args:
        folder: of files that say that something was done once.
    """

    def __init__(self, folder: str = "") -> None:
        self.folder = folder
        self.told: list[str] = []

    def reset(self, start: int | str) -> str:
        self.told = [str(start)]
        return f"begins with {start}"

    def step(self, text: str) -> tuple[str, float, bool]:
        name, _, once = text.partition(" ")
        if not (once and os.path.exists(f"{self.folder}/{once}")):
            if once:
                open(f"{self.folder}/{once}", "w").close()
            self.do(name)
        self.told.append(text)
        said = "|".join(self.told)
        return f"{said} ({os.getpid()})" if name == "who" else said, float(len(self.told)), False

    def do(self, name: str) -> None:
        """Whatever makes an environment fail."""
        match name:
            case "raise":
                raise RuntimeError("no")
            case "exit":
                raise SystemExit(3)
            case "hang":
                time.sleep(1000)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "memory":
                self.told.append("x" * (1 << 40))
            case "fork":
                if os.fork() == 0:
                    raise SystemExit(0)


class Fickle(Diary):
    """Is another one each time that it begins."""

    def reset(self, start: int | str) -> str:
        self.told = [f"{time.monotonic_ns()}"]
        return "begins"


class Wrong:
    """Answers nothing that is a step."""

    def __init__(self, answer: object = None, raises: bool = False) -> None:
        self.answer = tuple(answer) if isinstance(answer, list) else answer
        if raises:
            raise ValueError("it has no such params")

    def reset(self, start: int | str) -> str:
        return "begins"

    def step(self, text: str) -> object:
        return self.answer


class Duel:
    """Two players in turn, who say a number each; the higher one wins."""

    def reset(self, start: int | str) -> str:
        self.said: list[int] = []
        return "Say a number."

    def step(self, text: str) -> tuple[object, ...]:
        place = len(self.said)
        self.said.append(int(text))
        role, state = f"player_{place}", f"turn {place}"
        if place == 0:
            return "Your number?", 0.0, False, role, state
        won = 1.0 if self.said[1] > self.said[0] else -1.0
        return "over", won, True, role, state, {"player_0": -won}


class Parity:
    """Two players in turn, who write what they like: an even number of characters earns."""

    def reset(self, start: int | str) -> str:
        self.start, self.turns = int(start), 0
        return f"Game {start % 100}." if isinstance(start, int) else start

    def step(self, text: str) -> tuple[object, ...]:
        self.turns += 1
        earned = float((len(text) + self.start) % 2)
        role, state = f"player_{self.turns % 2}", f"{self.start} {self.turns}"
        return f"{len(text)} characters", earned, self.turns == 5, role, state
