"""A method at work on a policy, wherever its samples are from: what `train` and `prefer` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from megatron_stare.algorithms.chain import Chain
from megatron_stare.algorithms.hooks import Credit, HeadNeed, Need, Step
from megatron_stare.algorithms.needs import OLD, PROMPT_LOGPROBS, REFERENCE, ROLLOUT
from megatron_stare.algorithms.objective import MethodObjective
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.policy import padded_length
from megatron_stare.config.prefer import PreferConfig
from megatron_stare.data.packing import MicroBatches, Share, split_updates
from megatron_stare.ops.partials import TokenScores
from megatron_stare.policy.kept_graphs import num_kept
from megatron_stare.policy.step import Policy, UpdateResult
from megatron_stare.run.facts import check_rollout_logprobs, check_turns, open_step
from megatron_stare.run.head_facts import fact_of
from megatron_stare.run.prompt_scores import score_prompts
from megatron_stare.run.session import Session
from megatron_stare.types import RolloutBatch


@dataclass(slots=True)
class Learner[C: TrainConfig | PreferConfig]:
    """A method at work on the policy of a session.

    starting_weights  None where no part needs them
    graphs            of the first micro-batches of the step, which have gone forward and wait
    """

    config: C
    session: Session
    chain: Chain
    starting_weights: dict[str, Tensor] | None
    graphs: Sequence[TokenScores] = field(default=(), kw_only=True)

    def plan(self, batch: RolloutBatch) -> Share:
        """This rank's share of the batch, update by update."""
        updates = split_updates(batch.group_ids.tolist(), self.config.loop.updates_per_step)
        return self.session.plan(batch, updates)

    def observe(self, batch: RolloutBatch, share: Share, number: int) -> Step:
        """The step view, of this number, with all that the method needs before the update."""
        step = open_step(
            *(batch, share, number, self.config.loop.steps),
            device=self.session.topology.device,
            dp_group=self.session.policy.groups.dp,
            seed=self.config.run.seed,
        )
        check_rollout_logprobs(lambda: step.knows(ROLLOUT), self.config)
        check_turns(step, self.config.algorithm)
        for need, measure in _MEASURED.items():  # In one order on all ranks.
            if need in self.config.needs:
                step.facts.update(measure(self, batch, share))
        return step

    def score(self, batch: RolloutBatch, share: Share) -> dict[Need[Any], Any]:
        """Log-probs and entropies of this rank's tokens under the weights before the update.

        With what else the method asks of the head.
        """
        asked = [need for need in self.config.needs if isinstance(need, HeadNeed)]
        asked.sort(key=str)  # A set has another order on each rank.
        policy = self.session.policy
        with self.session.phase("prepass", len(share.index)) as advance:
            measured = policy.measure(
                *(batch, share.micro_batches, asked, advance),
                num_kept=self._num_kept(batch, share.updates[0]),
                with_entropy=self.config.algorithm.differentiates_entropy,
            )
        self.graphs = measured.graphs
        facts: dict[Need[Any], Any] = {OLD: measured.scores}
        for need, part in zip(asked, measured.rows, strict=True):
            facts[need] = fact_of(need, part, batch, share, policy.groups.dp)
        return facts

    def _num_kept(self, batch: RolloutBatch, micro_batches: MicroBatches) -> int:
        """Of these micro-batches of the first update, how many wait for it."""
        parallel, lengths = self.config.parallel, batch.lengths.tolist()
        return num_kept(
            [sum(padded_length(lengths[i], parallel.context) for i in m) for m in micro_batches],
            self.config.loop.keep_graph,
            self.session.policy.shape,
            self.config.model,
            parallel,
            self.session.topology.device,
        )

    def score_reference(self, batch: RolloutBatch, share: Share) -> dict[Need[Any], Any]:
        """Those under the starting weights."""
        assert self.starting_weights is not None
        policy = self.session.policy
        with (
            policy.weights_swapped_for(self.starting_weights),
            self.session.phase("prepass", len(share.index)) as advance,
        ):
            return {REFERENCE: policy.score(batch, share.micro_batches, advance)}

    def score_prompts(self, batch: RolloutBatch, share: Share) -> dict[Need[Any], Any]:
        """Log-probs of the prompts alone."""
        return {PROMPT_LOGPROBS: score_prompts(self.session, batch)}

    def update(
        self, batch: RolloutBatch, step: Step, credit: Credit, share: Share
    ) -> list[UpdateResult]:
        """The step's optimizer updates, in order.

        The first is under the weights of the prepass, if there was one, and one that comes with
        scores under those of its own: the head goes backward only, and so does all of the network
        where the graph was kept.
        """
        method, policy = self.config.algorithm, self.session.policy
        graphs, self.graphs = self.graphs, ()
        results: list[UpdateResult] = []

        def rescore(samples: Sequence[int]) -> TokenScores:
            micro_batches, tokens = share.of(samples, batch)
            return policy.score(batch, micro_batches).spread(tokens, len(share.index))

        with self.session.phase("update", len(share.index) * method.passes) as advance:
            for update in method.in_turn(step, credit, rescore):
                micro_batches, tokens = share.of(update.samples, batch)
                objective = MethodObjective.of(method, step, update).at(tokens)
                is_scored = update.old is not None or not results
                is_as_planned = not results and {*update.samples} == {*share.samples[0]}
                waiting, graphs = (graphs if is_as_planned else ()), ()
                result = policy.update(
                    *(batch, micro_batches, objective, advance),
                    known=objective.step.facts.get(OLD) if is_scored else None,
                    graphs=waiting,
                )
                results.append(self.session.check(result, self.config.loop.max_bad_updates))
        return results


@dataclass(frozen=True, slots=True)
class Learned:
    """What a step made of a batch, on this rank.

    step     with the policy's scores before it, whoever computed them
    credit   of this rank's tokens
    """

    step: Step
    credit: Credit
    updates: list[UpdateResult]


def learn(learner: Learner[Any], batch: RolloutBatch, number: int) -> Learned:
    """Measure a batch, decide the credit of its tokens, and update the policy.

    Every rank holds the whole batch. What is per token lives on the data-parallel rank that trains
    on it, its share, in flat order; whatever is global is one reduction over data parallelism.
    """
    share = learner.plan(batch)
    step = learner.observe(batch, share, number)
    credit = learner.chain.apply(step)
    updates = learner.update(batch, step, credit, share)
    # A single on-policy update scores its tokens itself, under the weights before the update.
    step.facts.setdefault(OLD, updates[0].scores)
    for news in step.news:
        learner.session.loggers.message(f"step {number}: {news}")
    return Learned(step, credit, updates)


def starting_weights_of(policy: Policy, config: TrainConfig) -> dict[str, Tensor] | None:
    """Its weights as they are now, where a run asks for scores under them.

    They wait on the host where servers get all of the GPU's memory, in their turns.
    """
    if REFERENCE not in config.needs:
        return None
    device = torch.device("cpu") if config.rollout.colocated else policy.device
    return copy_of_weights(policy, device)


def copy_of_weights(policy: Policy, device: torch.device) -> dict[str, Tensor]:
    """This rank's parameters as they are now, for `Policy.weights_swapped_for`."""
    return {
        name: parameter.detach().to(device, copy=True)
        for name, parameter in policy.named_parameters()
    }


_Facts = dict[Need[Any], Any]
_MEASURED: dict[Need[Any], Callable[[Learner[Any], RolloutBatch, Share], _Facts]] = {
    REFERENCE: Learner.score_reference,
    PROMPT_LOGPROBS: Learner.score_prompts,
    OLD: Learner.score,
}
"""How what costs a pass is measured; the policy last: its graphs may wait for the update."""
