"""Dr. Kernel's profiling rewards: correct, fast, and of the policy's own making."""

from __future__ import annotations

import torch

from megatron_stare.algorithms.hooks import Credit, Step
from megatron_stare.algorithms.links.trloo import Trloo
from megatron_stare.algorithms.links.turn_advantages import with_turns
from megatron_stare.algorithms.needs import PROFILES, TURNS
from megatron_stare.system.values import Weight


class Profiled(Trloo):
    """TRLOO's A of r = right correct + fast min(speedup, most) + own coverage correct, of a turn.

    These are rewards of turns in the place of what samples and turns have earned (PR). As in the
    code, speed is paid for what is not correct, too; it gives a kernel that only pretends, and one
    whose task failed, a penalty, 0 in the scripts: here such a turn has a profile of zeros.

    Source: Dr. Kernel, arXiv 2602.05885
    Status: checked against authors' code
    """

    needs = frozenset({TURNS, PROFILES})

    right: Weight = 0.5
    """What a correct turn earns."""
    fast: Weight = 0.5
    """What it earns for being as fast as the reference."""
    most: Weight = 3.0
    """The largest speedup that is paid."""
    own: Weight = 0.5
    """What a correct turn earns that spends all its time in code of the policy's."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Of what the profiler says."""
        said = step[PROFILES]
        rewards = self.fast * said.speedup.clamp(0, self.most)
        rewards += torch.where(said.correct > 0, self.right + self.own * said.coverage, 0.0)
        return with_turns(credit, step, self.of_rewards(step[TURNS], rewards))
