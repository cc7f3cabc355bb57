"""Prompts that a curriculum chooses, and what it learns from what came of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from megatron_stare.algorithms.hooks import Curriculum
from megatron_stare.algorithms.states import from_plain, listed, to_plain
from megatron_stare.data.prompts import PromptSet, check_one_source
from megatron_stare.errors import UserError
from megatron_stare.types import Group, Prompt

_KEY = "algorithm.curriculum"


class Curated:
    """Draws from a prompt set as a curriculum says; uids are `draw.NUMBER-row`.

    `source` names the set among several, so that what is random in one is not what is in another.

    A step asks no problem twice unless it asks more than there are.
    """

    def __init__(
        self,
        prompts: PromptSet,
        named: Mapping[str, Curriculum],
        *,
        seed: int,
        source: str = "",
    ) -> None:
        ((self._name, self._curriculum),) = named.items()
        self._prompts = prompts
        self._seed = f"{seed}/{source}" if source else f"{seed}"
        self._state: Any = self._curriculum.start()
        self._num_draws = 0
        self._asked: set[int] = set()
        """In this step."""

    def draw(self, count: int) -> list[Prompt]:
        """So many prompts.

        Raises:
            UserError: the curriculum draws others than it may, or another number.
        """
        drawn: list[Prompt] = []
        while len(drawn) < count:
            if len(self._asked) == len(self._prompts):
                self._asked.clear()
            left = [i for i in range(len(self._prompts)) if i not in self._asked]
            places = self._drawn_of(min(count - len(drawn), len(left)), left)
            drawn += self._as_prompts(places)
            self._asked.update(places)
            self._num_draws += 1
        return drawn

    def _as_prompts(self, places: Collection[int]) -> list[Prompt]:
        appended = {place: self._curriculum.appended(place, self._state) for place in places}
        prompts = self._prompts.at(places, f"draw.{self._num_draws}", appended)
        if not isinstance(places, Mapping):
            return prompts
        return [
            replace(prompt, propensity=places[place])
            for place, prompt in zip(places, prompts, strict=True)
        ]

    def _drawn_of(self, count: int, left: Sequence[int]) -> Collection[int]:
        random = Random(f"{self._seed}/{self._name}/{self._num_draws}")
        places = self._curriculum.draw(count, left, self._state, random)
        if len(places) != count or len({*places}) != count or not {*places} <= {*left}:
            raise UserError(
                f"{_KEY}={self._name}: expected {count} different problems of the {len(left)} it "
                f"was given, found {[*places]!r:.200}"
            )
        return places

    def observe(self, judged: Sequence[Group]) -> None:
        """End a step, in which these groups were judged."""
        asked = [(self._prompts.place_of(group.prompt), group) for group in judged]
        self._state = self._curriculum.observe(asked, self._state)
        self._asked.clear()

    def state_dict(self) -> dict[str, Any]:
        """Where drawing stands between two steps, as plain values."""
        return {
            "data": self._prompts.state_dict(),
            "draws": self._num_draws,
            "curriculum": to_plain({self._name: self._state}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was saved; UserError where data or curriculum are not the same."""
        check_one_source(state)
        if "curriculum" not in state:
            raise UserError(
                f"{_KEY}={listed([self._name])}: the run has been trained without one, epoch after "
                "epoch; go on with that, or begin anew (run.resume=never)"
            )
        self._prompts.load_state_dict(state["data"])
        states = from_plain(_KEY, state["curriculum"], {self._name: self._state})
        self._state = states[self._name]
        self._num_draws = state["draws"]
        self._asked.clear()
