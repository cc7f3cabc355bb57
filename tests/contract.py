"""What every link promises, for any chain: see tests/unit/algorithms/test_contract.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_stare.algorithms.chain import Chain
from megatron_stare.algorithms.config import AlgorithmConfig
from megatron_stare.algorithms.hooks import Credit, HeadNeed, Step
from megatron_stare.algorithms.links.group_baselines import SampleAdvantages
from megatron_stare.algorithms.needs import (
    CUTS,
    DEMONSTRATED,
    GUIDED,
    OLD,
    PROFILES,
    PROMPT_LOGPROBS,
    REFERENCE,
    ROLLOUT,
    UNTRUNCATED,
    Cuts,
    HiddenRanks,
    Profiles,
    PromptLogprobs,
    RankDynamics,
    facts_of_turns,
)
from megatron_stare.algorithms.table import LINKS, TERMS
from megatron_stare.algorithms.terms.clipped import Clipped
from megatron_stare.algorithms.turns import Turns
from megatron_stare.ops.partials import TokenScores
from megatron_stare.types import RolloutBatch

ACTS: dict[str, dict[str, Any]] = {
    "stare": {"target_entropy": 10.0, "adaptive": True, "variant": "C2"},
    "grpo_n": {"denominator": "kept"},
    "ace": {"alpha": 1.0, "level": "sequence"},
    "clip_cov": {"share": 0.05},
    "stapo": {"probability": 0.5},
    "a3po": {"positive": 2.0, "negative": 3.0},
    "adaptive_entropy": {"target": 100.0, "delta": 0.001},
    "d3s": {"first": 0.6, "last": 1.0},
    "off_policy_mask": {"delta": 0.01},
    "veto": {"threshold": 0.5},
    "adora": {"max_length": 20},
    "overlong": {"max_length": 30, "buffer": 20},
    "entropy_quadrants": {"keep": "PHR"},
    "pro_grpo": {"alpha": 0.3},
    "dgpo_distribution": {"vocab_size": 3},
    "r3": {"alpha": 1.5, "eps": 0.01, "share": 0.1, "most": 0.5},
    "replay": {"count": 1},
    "reflection": {"threshold": 0.5, "instruction": " {error} is wrong."},
    "lp_reg": {"share": 0.9, "kappa": 1e-3},
    "verl": {"stride": 3, "longest": 20},
    "srgpo": {"size": 0},
    "d3s_samples": {"group_first": 0.5, "group_last": 1, "batch_first": 0.5, "batch_last": 1},
}
"""Settings under which a part does something to the batches below, where its defaults do not, or
where it has none."""
BEFORE: dict[str, list[Any]] = {
    "self_normalized": ["grpo", "tis"],
    # Of equal advantages the order of samples would decide.
    "d3s_samples": ["unlikeliness", {"ace": {"alpha": 1.0, "level": "sequence"}}],
}
"""What stands before a link that acts on what others have made; else advantages alone."""

HEAD_NEEDS = {
    need
    for name, kind in LINKS.items()
    for need in kind(**ACTS.get(name, {})).needs
    if isinstance(need, HeadNeed)
}
"""What links ask of the head, with these settings."""
OF_TURNS = ("turns", "turn_rewards", "anchors", "roles", "failed_calls")
"""Columns of a batch that say something of turns."""
MARKS = frozenset().union(*(link.marks for link in LINKS.values()))
"""All that links leave for terms."""

OF_REWARDS = {"v05", "verl"}
"""Links that look at the batch, but at nothing that is not whole on every rank."""
REMEMBER = {"adaptive_entropy", "epo"}
"""Links whose statistic decides of later steps, or by the side of a bound that it is on."""
OBSERVE = {"quadrants", "verl"}
"""Links that report, and change nothing, or nothing in a first step."""


def links_with(name: str) -> list[Any]:
    """A chain that gives a link of the table advantages, as in a config."""
    spec = {name: ACTS.get(name, {})}
    if issubclass(LINKS[name], SampleAdvantages):
        return [spec]
    return [*BEFORE.get(name, ["grpo"]), spec]


def method_with_term(name: str) -> dict[str, Any]:
    """A method that learns by a term of the table, as in a config, with the links it reads.

    The term is the policy's; one of marks that bounds no ratio, which may rest, is beside a clip.
    """
    makers = [link for link, kind in LINKS.items() if kind.marks & TERMS[name].needs]
    links = ["grpo", *({link: ACTS.get(link, {})} for link in makers)]
    place = "policy" if not makers or issubclass(TERMS[name], Clipped) else "terms"
    return {"method": "grpo", "links": links, place: [name]}


def chain_with(name: str) -> AlgorithmConfig:
    """The same, as a method."""
    return AlgorithmConfig.model_validate({"links": links_with(name)})


@dataclass(frozen=True)
class Batch:
    """A ragged batch with all that may be measured of it, `[R]` each, in the batch's order."""

    rollouts: RolloutBatch
    logprobs: Tensor
    entropies: Tensor
    reference: Tensor

    def facts(self, index: Tensor) -> dict[Any, Any]:
        """Of the tokens that stand there."""
        nothing = torch.zeros(len(index))
        engine = self.rollouts.rollout_logprobs[index]
        return {
            OLD: TokenScores(self.logprobs[index], self.entropies[index], nothing, nothing),
            REFERENCE: TokenScores(self.reference[index], nothing, nothing, nothing),
            ROLLOUT: engine,
            UNTRUNCATED: engine,
            DEMONSTRATED: self.rollouts.loss_mask[index]
            & self.demonstrated[self.rollouts.sample_ids[index]],
            GUIDED: self.rollouts.loss_mask[index] & (self.rollouts.sample_ids[index] == 6),
            **dict.fromkeys(MARKS, 2 * self.entropies[index] - 1),
            PROMPT_LOGPROBS: PromptLogprobs(
                [-torch.arange(1.0, 2 + group) / 5 for group in self.rollouts.group_ids.tolist()]
            ),
            CUTS: self.cuts,
            PROFILES: profiles_of(Turns(self.rollouts)),
            **{need: self.of_head(need, index) for need in HEAD_NEEDS},
            **facts_of_turns(self.rollouts),
        }

    def of_head(self, need: HeadNeed[Any], index: Tensor) -> Any:
        """What the head says of the tokens that stand there, whatever the need's settings."""
        if isinstance(need, HiddenRanks):
            return RankDynamics(self.ranks)
        return self.logprobs[index] / 2

    @property
    def ranks(self) -> Tensor:
        """Of the hidden states of each sample, `[B, 3]`: by its length and its reward."""
        lengths, rewards = self.rollouts.num_loss_tokens.float(), self.rollouts.rewards
        return torch.stack([lengths, rewards + lengths / 20, rewards - lengths / 10], dim=1)

    @property
    def cuts(self) -> Cuts:
        """At some of the tokens that count; samples share their nodes."""
        is_cut = (self.reference < -1) & self.rollouts.loss_mask
        values = self.reference.exp().double()
        nodes = (-self.reference).long()
        return Cuts(values.masked_fill(~is_cut, torch.nan), nodes.masked_fill(~is_cut, -1))

    def step(self, number: int, samples: Sequence[int], group: dist.ProcessGroup | None) -> Step:
        """The step view of a rank that holds these samples, in this order."""
        ends = self.rollouts.response_lengths.cumsum(0).tolist()
        spans = [torch.arange([0, *ends][i], ends[i]) for i in samples]
        index = torch.cat(spans) if spans else torch.empty(0, dtype=torch.int64)
        mask, sample_ids = self.rollouts.loss_mask[index], self.rollouts.sample_ids[index]
        everyone = [list(range(len(self.rollouts)))]
        step = Step(number, number / 10, self.rollouts, index, sample_ids, mask, everyone, group)
        step.facts.update(self.facts(index))
        return step

    def taken(self, order: Sequence[int]) -> Batch:
        """The same samples in another order."""
        index = self.step(1, order, None).index
        rollouts = self.rollouts
        ids = torch.tensor(order)
        batch = RolloutBatch(
            token_ids=_token_ids(rollouts.group_ids[ids], rollouts.response_lengths[ids]),
            prompt_lengths=rollouts.prompt_lengths[ids],
            response_lengths=rollouts.response_lengths[ids],
            loss_mask=rollouts.loss_mask[index],
            rollout_logprobs=rollouts.rollout_logprobs[index],
            rewards=rollouts.rewards[ids],
            verdicts=rollouts.verdicts[ids],
            group_ids=rollouts.group_ids[ids],
            demonstrated=self.demonstrated[ids],
            truncated=rollouts.is_truncated[ids],
            **{name: getattr(rollouts, name)[index] for name in OF_TURNS},
        )
        return Batch(batch, *(part[index] for part in self.per_token))

    def with_masked_tokens(self, seed: int) -> tuple[Batch, Tensor]:
        """With tokens under the mask inserted anywhere; and where the old ones are, int64 `[R]`."""
        generator = torch.Generator().manual_seed(seed)
        old = self.rollouts
        more = torch.randint(0, 4, (int(old.response_lengths.sum()),), generator=generator)
        where = (more + 1).cumsum(0) - 1
        total = int((more + 1).sum())

        def spread(values: Tensor, fill: float) -> Tensor:
            spread = torch.full((total,), fill, dtype=values.dtype)
            spread[where] = values
            return spread

        lengths = torch.zeros_like(old.response_lengths)
        lengths.index_add_(0, old.sample_ids, more + 1)
        batch = RolloutBatch(
            token_ids=_token_ids(old.group_ids, lengths),
            prompt_lengths=old.prompt_lengths,
            response_lengths=lengths,
            loss_mask=spread(old.loss_mask, False),
            rollout_logprobs=spread(old.rollout_logprobs, torch.nan),
            rewards=old.rewards,
            verdicts=old.verdicts,
            group_ids=old.group_ids,
            demonstrated=old.demonstrated,
            truncated=old.truncated,
            # What is put in is of the turn before it.
            **{name: getattr(old, name).repeat_interleave(more + 1) for name in OF_TURNS},
        )
        # Under the mask the policy is not asked: its scores are 0.
        return Batch(batch, *(spread(part, 0.0) for part in self.per_token)), where

    @property
    def demonstrated(self) -> Tensor:
        """The sample that is one to terms that learn from demonstrations, `[B]`."""
        assert self.rollouts.demonstrated is not None
        return self.rollouts.demonstrated

    @property
    def per_token(self) -> tuple[Tensor, Tensor, Tensor]:
        """What a policy says of each token."""
        return self.logprobs, self.entropies, self.reference


def random_batch(seed: int, num_groups: int = 5, size: int = 4) -> Batch:
    """Groups of right and wrong samples; some tokens, and one whole sample, are under the mask."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 40, (num_groups * size,), generator=generator)
    n = int(lengths.sum())
    logprobs = -torch.empty(n).exponential_(generator=generator)
    mask = torch.rand(n, generator=generator) < 0.8
    mask[: int(lengths[0])] = False
    noise = torch.randn(2, n, generator=generator)
    group_ids = torch.arange(num_groups).repeat_interleave(size)
    rollouts = RolloutBatch(
        token_ids=_token_ids(group_ids, lengths),
        prompt_lengths=torch.ones_like(lengths),
        response_lengths=lengths,
        loss_mask=mask,
        rollout_logprobs=(logprobs + 0.3 * noise[0]).masked_fill(~mask, torch.nan),
        rewards=(rewards := torch.randint(0, 2, (len(lengths),), generator=generator).float()),
        verdicts=rewards,
        group_ids=group_ids,
        demonstrated=torch.arange(len(lengths)) == 5,
        truncated=torch.arange(len(lengths)) % 5 > 0,
        **_of_turns(lengths, generator),
    )
    entropies = torch.rand(n, generator=generator)
    return Batch(
        rollouts,
        *(part.masked_fill(~mask, 0.0) for part in (logprobs, entropies, logprobs + noise[1])),
    )


def _of_turns(lengths: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Of 7 tokens; some of them were written in the same state, and two players take turns."""
    turns = torch.cat([torch.arange(int(length)) // 7 for length in lengths])
    of_turn = (torch.cat([turns.new_ones(1), turns.diff()]) != 0).cumsum(0) - 1
    drawn = torch.randint(0, 3, (int(of_turn[-1]) + 1,), generator=generator)[of_turn]
    columns = (turns, drawn.float(), (drawn + turns) % 3, turns % 2, drawn // 2)
    return dict(zip(OF_TURNS, columns, strict=True))


def profiles_of(turns: Turns) -> Profiles:
    """By what they have earned, and whose they are."""
    earned = turns.own_rewards
    return Profiles((earned > 0).double(), earned + 0.5, (turns.numbers % 4).double() / 4)


def _token_ids(group_ids: Tensor, lengths: Tensor) -> Tensor:
    """Of prompts of one token, their group's id, and responses of zeros."""
    token_ids = torch.zeros(int(lengths.sum()) + len(lengths), dtype=torch.int64)
    token_ids[(lengths + 1).cumsum(0) - lengths - 1] = group_ids
    return token_ids


@dataclass(frozen=True)
class Decided:
    """What a chain made of a step on one rank; `marks` are those of its links, by name."""

    index: Tensor
    credit: Credit
    report: Mapping[str, float]
    states: Mapping[str, Any]
    marks: Mapping[str, Tensor]

    @property
    def of_tokens(self) -> dict[str, Tensor]:
        """Credit and marks, by name."""
        return {**self.credit._asdict(), **self.marks}


def decide(
    chain: Chain, batch: Batch, number: int, samples: Sequence[int], group: Any = None
) -> Decided:
    """One step of a chain on a rank's samples, late links too."""
    step = batch.step(number, samples, group)
    for need in chain.method.needs:
        if isinstance(need, HeadNeed):
            step.facts[need] = batch.of_head(need, step.index)
    credit = chain.apply(step)
    for link in chain.method.late:
        credit = link.apply(credit, step, None)
    left = [mark for link in chain.method.links.values() for mark in link.marks]
    marks = {mark.name: step[mark] for mark in left}
    return Decided(step.index, credit, chain.report(credit, step), chain.state_dict(), marks)


def in_batch_order(ranks: Sequence[Decided]) -> dict[str, Tensor]:
    """What was decided of all tokens, by name: their credit, and the marks on them."""
    order = torch.cat([rank.index for rank in ranks]).argsort()
    of_ranks = [
        {name: part.expand_as(rank.index) for name, part in rank.of_tokens.items()}
        for rank in ranks
    ]
    return {name: torch.cat([part[name] for part in of_ranks])[order] for name in of_ranks[0]}
