"""The turns of a batch: what they have earned, where they were written, and by whom."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from megatron_stare.algorithms.advantages import GRPO_EPS, Groups
from megatron_stare.types import RolloutBatch


class Turns:
    """The N turns of a batch, in its order; whole on every rank, on the CPU.

    Every sample has one, or more. What it has earned as a whole is earned by its last.

        >>> batch = RolloutBatch(torch.zeros(7).long(), torch.ones(2).long(),
        ...     torch.tensor([3, 2]), torch.ones(5).bool(), torch.zeros(5), torch.tensor([1.0, 0]),
        ...     torch.tensor([1.0, 0]), torch.tensor([0, 0]), turns=torch.tensor([0, 0, 1, 0, 0]))
        >>> turns = Turns(batch)
        >>> turns.numbers, turns.rewards
        (tensor([0, 1, 0]), tensor([0., 1., 0.], dtype=torch.float64))
        >>> turns.returns(0.5)
        tensor([0.5000, 1.0000, 0.0000], dtype=torch.float64)
        >>> turns.of_tokens(turns.numbers)
        tensor([0, 0, 1, 0, 0])
    """

    def __init__(self, batch: RolloutBatch) -> None:
        self.batch = batch
        """Whose turns they are."""

    def at(self, tokens: slice | Tensor) -> Turns:
        """The same: they are not of this rank's tokens."""
        return self

    @cached_property
    def _runs(self) -> tuple[Tensor, Tensor]:
        columns = torch.stack([self.batch.sample_ids, self.batch.turn_numbers])
        return columns.unique_consecutive(dim=1, return_inverse=True)

    @property
    def samples(self) -> Tensor:
        """The sample of each, int64 `[N]`."""
        return self._runs[0][0]

    @property
    def numbers(self) -> Tensor:
        """The place of each in its sample, from 0, int64 `[N]`."""
        return self._runs[0][1]

    @property
    def groups(self) -> Tensor:
        """The group of each, int64 `[N]`."""
        return self.batch.group_ids[self.samples]

    @cached_property
    def are_last(self) -> Tensor:
        """Whether each is the last of its sample, bool `[N]`."""
        following = torch.cat([self.samples[1:], self.samples.new_full((1,), -1)])
        return self.samples != following

    @cached_property
    def num_counted(self) -> Tensor:
        """Tokens of each that the loss mask leaves, int64 `[N]`."""
        counts = torch.zeros_like(self.samples)
        return counts.index_add_(0, self._runs[1], self.batch.loss_mask.long())

    @cached_property
    def own_rewards(self) -> Tensor:
        """What each has earned by itself, float64 `[N]`; 0 where nothing says so."""
        rewards = self.batch.turn_rewards
        return torch.zeros(len(self.samples)).double() if rewards is None else self._first(rewards)

    @cached_property
    def outcomes(self) -> Tensor:
        """The reward of the sample of each, float64 `[N]`."""
        return self.batch.rewards.double()[self.samples]

    @property
    def rewards(self) -> Tensor:
        """What each has earned, and of a last one its sample's reward, float64 `[N]`."""
        return self.own_rewards + self.outcomes * self.are_last

    @property
    def totals(self) -> Tensor:
        """What the sample of each has earned in all, float64 `[N]`."""
        return Groups(self.samples).sum(self.rewards)

    @property
    def anchors(self) -> Tensor:
        """The same number where turns of a group were written in the same state, int64 `[N]`."""
        anchors = self.batch.anchors
        return torch.zeros_like(self.samples) if anchors is None else self._first(anchors)

    @property
    def roles(self) -> Tensor:
        """The same number where turns are of the same role, int64 `[N]`."""
        roles = self.batch.roles
        return torch.zeros_like(self.samples) if roles is None else self._first(roles)

    def returns(self, gamma: float, rewards: Tensor | None = None) -> Tensor:
        """R_t = r_t + gamma R_{t+1} within each sample, float64 `[N]`; by default of `rewards`.

        Of several players in a sample, t + 1 is the next turn of the same.
        """
        rewards = self.rewards if rewards is None else rewards
        found = rewards.tolist()
        players = list(zip(self.samples.tolist(), self.roles.tolist(), strict=True))
        after: dict[tuple[int, int], float] = {}
        for turn in range(len(found) - 1, -1, -1):
            found[turn] += gamma * after.get(players[turn], 0.0)
            after[players[turn]] = found[turn]
        return torch.tensor(found, dtype=torch.float64)

    def of_tokens(self, values: Tensor) -> Tensor:
        """What is said of turns, `[N]`, said of the batch's tokens, `[R]`."""
        return values[self._runs[1]]

    def _first(self, of_tokens: Tensor) -> Tensor:
        """What is said of the tokens of each, all of them alike."""
        inverse = self._runs[1]
        starts = torch.ones_like(inverse, dtype=torch.bool)
        starts[1:] = inverse.diff() > 0
        values = of_tokens[starts]
        return values.double() if values.is_floating_point() else values


def same(*columns: Tensor) -> Groups:
    """Turns which are alike in all of these, int64 or bool `[N]` each."""
    rows = torch.stack([column.long() for column in columns], dim=1)
    return Groups(rows.unique(dim=0, return_inverse=True)[1])


def standardised(groups: Groups, values: Tensor, *, unbiased: bool = True) -> Tensor:
    """(x - mean) / (std + 1e-6) of their groups, `[N]`; 0 of a single one, and of equal ones."""
    std = groups.std(values)
    if not unbiased:
        std = std * ((groups.size - 1) / groups.size).sqrt()
    return groups.centred(values) / (std + GRPO_EPS)


def of_samples(turns: Turns, standardise: Callable[[Groups, Tensor], Tensor]) -> Tensor:
    """What is made of the samples' totals, each once in its group, said of their turns: `[N]`."""
    last = turns.are_last
    made = standardise(Groups(turns.groups[last]), turns.totals[last])
    return made[last.cumsum(0) - last.long()]
