"""SRGPO: a turn's own reward against those of any other turns."""

from __future__ import annotations

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.links.gigpo import Norm, of_episodes
from megatron_stare.algorithms.links.turn_advantages import with_turns
from megatron_stare.algorithms.needs import TURN_REWARDS, TURNS
from megatron_stare.algorithms.turns import same, standardised
from megatron_stare.system.values import CountOrZero, Weight


class Srgpo(Link[None]):
    """A = E + w z, z of the turn's own reward in a random set of the batch's turns.

    E is GiGPO's. Rewards of turns are not discounted, and have to be verifiable: what is right in
    one state is comparable with what is right in another. Mean and unbiased std are the set's.

    Source: SeeNav-Agent's SRGPO, arXiv 2512.02631
    Status: paper
    """

    makes_advantages = True
    scope = "sample"
    needs = frozenset({TURNS, TURN_REWARDS})

    w: Weight = 0.5
    """How much a turn's own reward weighs."""
    size: CountOrZero = 16
    """Turns of a set; 0 is all of the batch."""
    norm: Norm = "mean_std"
    """Of E."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Every token gets its turn's advantage."""
        turns = step[TURNS]
        count = len(turns.samples)
        places = step.drawn(count, "srgpo").argsort(stable=True).argsort()
        sets = same(places // (self.size or count))
        own = standardised(sets, turns.own_rewards)
        return with_turns(credit, step, of_episodes(turns, self.norm, "turns") + self.w * own)
