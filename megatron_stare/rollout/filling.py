"""A batch being filled: which groups grow, which are kept or filtered, and their books."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_stare.config.rollout import RolloutConfig
from megatron_stare.engines.engine import Request
from megatron_stare.ops.entropy_temperature import EntropyTemperature
from megatron_stare.rollout.failures import failures_of
from megatron_stare.rollout.groups import GrowingGroup
from megatron_stare.rollout.ledger import Ledger
from megatron_stare.rollout.statistics import count_solved
from megatron_stare.types import Group, Prompt, Sample


class Filling:
    """The groups of a step, from those that the step before carried over.

    growing      by uid, under way or waiting to go on
    kept         with a learning signal
    filtered     generated and scored, and not for the batch
    reasons      why not, by uid
    wanting      judged so far, of which the budget wants more samples
    judged       in this step, as they were before any filter
    num_tokens   response tokens that this step generated
    drawn        prompts that are new in this step
    """

    def __init__(self, carried: Sequence[GrowingGroup | Group]) -> None:
        self.ledger = Ledger()
        self.growing = {g.prompt.uid: g for g in carried if isinstance(g, GrowingGroup)}
        self.kept = [group for group in carried if isinstance(group, Group)]
        self.filtered: list[Group] = []
        self.reasons: dict[str, str] = {}
        self.wanting: list[Group] = []
        self.judged: list[Group] = []
        self.num_tokens = 0
        self.drawn: list[Prompt] = []
        self.ledger.draw(group.prompt for group in carried)

    @property
    def num_judged(self) -> int:
        """Prompts that are done with, whether or not they have a group."""
        return len(self.ledger) - len(self.growing)

    @property
    def num_whole(self) -> int:
        """Groups that wait to be judged."""
        return sum(group.is_whole for group in self.growing.values())

    def draw(self, prompts: Sequence[Prompt], group_size: int) -> None:
        """Enter new prompts."""
        self.ledger.draw(prompts)
        self.drawn += prompts
        self.growing |= {prompt.uid: GrowingGroup(prompt, group_size) for prompt in prompts}

    def requests(self, rule: EntropyTemperature | None) -> list[Request]:
        """What it takes to make every group whole, those carried over first."""
        return [request for group in self.growing.values() for request in group.requests(rule)]

    def take(self, sample: Sample) -> None:
        """Put a sample into its group; RuntimeError where it was not asked for, or came before."""
        if sample.prompt.uid not in self.growing:
            raise RuntimeError(
                f"the engine gave sample {sample.index} of prompt {sample.prompt.uid} "
                "twice, or unasked"
            )
        group = self.growing[sample.prompt.uid]
        begun = group.samples.get(sample.index)
        group.take(sample)
        self.num_tokens += sample.num_chosen - (0 if begun is None else begun.num_chosen)

    def grow_wanting(self) -> None:
        """Have the groups that want more grow by a sample; nothing else grows then."""
        self.growing |= {group.prompt.uid: GrowingGroup.beyond(group) for group in self.wanting}
        self.wanting = []

    def take_unanswered(self) -> list[Group]:
        """Remove the groups whose further sample has not come, as they were without it."""
        unanswered = [group for group in self.growing.values() if not group.is_whole]
        for group in unanswered:
            del self.growing[group.prompt.uid]
        return [group.as_judged() for group in unanswered]

    def take_whole(self) -> list[GrowingGroup]:
        """Remove the whole groups from those that grow, in the order they were drawn."""
        whole = [group for group in self.growing.values() if group.is_whole]
        for group in whole:
            del self.growing[group.prompt.uid]
        return whole

    def drop(self, groups: Sequence[Group], reason: str) -> None:
        """Leave groups out of the batch."""
        self.filtered += groups
        self.reasons |= {group.prompt.uid: reason for group in groups}

    def give_up_growing(self, is_interrupted: bool) -> None:
        """End what grows: as failed where the engine did not answer, as aborted if stopped."""
        for group in self.growing.values():
            was_stopped = is_interrupted or group.was_stopped
            self.ledger.end([group.prompt], "aborted" if was_stopped else "failed")
        self.growing.clear()

    def split_kept(self, size: int) -> tuple[list[Group], list[Group]]:
        """The batch of that size, and the surplus: the last drawn."""
        ordered = self.in_order_drawn(self.kept)
        return ordered[:size], ordered[size:]

    def as_judged(self, groups: Sequence[Group]) -> list[Group]:
        """What the policy has done in these groups, before a filter put something in their place.

        Of a group that was judged in an earlier step, that is what is left of it, if anything.
        """
        judged = {group.prompt.uid: group for group in self.judged}

        def as_judged(group: Group) -> Group:
            own = judged.get(group.prompt.uid, group.of_policy)
            return own if own.samples else group

        return [as_judged(group) for group in groups]

    def in_order_drawn[T: GrowingGroup | Group](self, groups: Sequence[T]) -> list[T]:
        """The same groups, in the order their prompts entered this step."""
        places = {uid: place for place, uid in enumerate(self.ledger)}
        return sorted(groups, key=lambda group: places[group.prompt.uid])


def why_not_full(filling: Filling, config: RolloutConfig) -> str:
    """What kept a batch from being filled, and what would have let more groups through."""
    generated = filling.kept + filling.filtered
    num_all, num_none = count_solved(generated)
    num_unjudged = sum(not group.can_be_compared for group in generated)
    unjudged = f"{num_unjudged} have too few that are judged, " if num_unjudged else ""
    failures = failures_of(generated)
    return (
        f"{len(filling.kept)} of rollout.prompts_per_step={config.prompts_per_step} groups "
        f"after rollout.max_rounds={config.max_rounds} rounds; of {len(filling.ledger)} prompts, "
        f"{num_none} have no correct sample, {num_all} only correct ones, "
        f"{unjudged}{len(filling.ledger) - len(generated)} were not answered: problems nearer to "
        "what the policy can do, more rollout.samples_per_prompt, or "
        "rollout.dynamic_sampling=false let more groups through, and a smaller "
        "rollout.prompts_per_step needs fewer" + (f"; {failures}" if failures else "")
    )
