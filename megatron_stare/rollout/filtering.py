"""A method's filters at work, with what they remember from step to step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from megatron_stare.algorithms.hooks import Filter
from megatron_stare.algorithms.states import from_plain, to_plain
from megatron_stare.types import Group


class Filtering:
    """Says what is trained on in the place of a group; without filters, the group."""

    def __init__(self, filters: Mapping[str, Filter]) -> None:
        self._filters = filters
        self._states: dict[str, Any] = {name: each.start() for name, each in filters.items()}

    def keep(self, group: Group) -> Group | str:
        """What the filters make of it, one after another, or the name of the one that drops it."""
        for name, each in self._filters.items():
            kept = each.recall(group, self._states[name])
            if kept is None:
                return name
            group = kept
        return group

    def observe(self, judged: Sequence[Group]) -> None:
        """End a step, in which these groups were judged."""
        for name, each in self._filters.items():
            self._states[name] = each.observe(judged, self._states[name])

    def statistics(self, groups: Sequence[Group]) -> dict[str, float]:
        """How many samples of a batch are of earlier steps; nothing where none can be."""
        if not any(each.replays for each in self._filters.values()):
            return {}
        origins = [sample.origin for group in groups for sample in group.samples]
        return {"rollout/replayed": float(origins.count("replay"))}

    def state_dict(self) -> dict[str, Any]:
        """What the filters that remember begin the next step with, as plain values."""
        return to_plain(self._remembered)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was saved; UserError where other filters remember."""
        self._states |= from_plain("algorithm.filters", state, self._remembered)

    @property
    def _remembered(self) -> dict[str, Any]:
        return {name: state for name, state in self._states.items() if state is not None}
