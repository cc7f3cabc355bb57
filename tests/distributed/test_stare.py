"""STARE over gloo worlds: the tokens and weights of one process, however a batch is split."""

import itertools
import random

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from megatron_stare.algorithms.stare import (
    StareConfig,
    StareDecision,
    selection_weights,
    stare_selection,
    stare_weights,
)
from tests.worlds import run_world

KINDS = ("distinct", "tied", "all tied", "no advantage", "one sign")
SPLITS = ("even", "random", "all on the last rank")
CONFIG = StareConfig(variant="C2", top_share=0.1)
ON = StareDecision(gate_on=True, w=1.1, m=0.9)


def ragged_batch(kind: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sample of each token, surprisal and advantage; samples of 1 to 40 tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 41, (16,), generator=generator)
    samples = torch.repeat_interleave(torch.arange(16), lengths)
    surprisal = torch.empty(len(samples)).exponential_(generator=generator)
    advantages = torch.randint(-1, 2, (16,), generator=generator).float()[samples]
    if kind == "tied":
        surprisal = (surprisal * 3).round() / 3
    if kind == "all tied":
        surprisal = torch.zeros_like(surprisal)
    if kind == "no advantage":
        advantages = torch.zeros_like(advantages)
    if kind == "one sign":
        advantages = advantages.abs()
    return samples, surprisal, advantages


def tokens_of_rank(samples: Tensor, split: str, seed: int) -> Tensor:
    """This rank's token ids, sample by sample in an order of its own."""
    rng, size, rank = random.Random(seed), dist.get_world_size(), dist.get_rank()
    owners = {
        "even": [sample % size for sample in range(16)],
        "random": [rng.randrange(size) for _ in range(16)],
        "all on the last rank": [size - 1] * 16,
    }[split]
    mine = [sample for sample in range(16) if owners[sample] == rank]
    rng.shuffle(mine)
    parts = [(samples == sample).nonzero().flatten() for sample in mine]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


def equals_one_process(rank: int) -> None:
    for seed, (kind, split) in enumerate(itertools.product(KINDS, SPLITS)):
        samples, surprisal, advantages = ragged_batch(kind, seed)
        ids = tokens_of_rank(samples, split, seed)
        group = dist.group.WORLD

        mine = stare_selection(
            surprisal[ids],
            advantages[ids],
            top_share=CONFIG.top_share,
            token_ids=ids,
            group=group,
        )
        whole = stare_selection(
            surprisal, advantages, top_share=CONFIG.top_share, token_ids=torch.arange(len(samples))
        )
        assert torch.equal(mine.positive, whole.positive[ids]), (kind, split)
        assert torch.equal(mine.negative, whole.negative[ids]), (kind, split)
        thresholds = [
            torch.tensor([s.threshold_positive, s.threshold_negative]) for s in (mine, whole)
        ]
        torch.testing.assert_close(*thresholds, rtol=0, atol=0, equal_nan=True)

        weights = stare_weights(
            surprisal[ids],
            advantages[ids],
            decision=ON,
            config=CONFIG,
            token_ids=ids,
            group=group,
        )
        expected = stare_weights(surprisal, advantages, decision=ON, config=CONFIG)
        assert torch.equal(weights, expected[ids]), (kind, split)
        assert torch.equal(weights, selection_weights(mine, ON, CONFIG)), (kind, split)


def asks_alone(rank: int) -> list[float]:
    """Rank 0 calls by itself: with a collective in the call, it would wait for the other."""
    if rank:
        return []
    tokens = torch.tensor([1.0, 2.0]), torch.tensor([1.0, -1.0])
    with pytest.raises(ValueError, match="token_ids is None with a group"):
        stare_weights(*tokens, decision=ON, config=CONFIG, group=dist.group.WORLD)
    return stare_weights(
        *tokens,
        decision=StareDecision(gate_on=False, w=1.1, m=0.9),
        config=CONFIG,
        token_ids=torch.tensor([0, 1]),
        group=dist.group.WORLD,
    ).tolist()


@pytest.mark.parametrize("size", [2, 4])
def test_the_split_over_ranks_does_not_matter(size):
    run_world(size, equals_one_process)


def test_a_closed_gate_and_a_refusal_communicate_nothing():
    assert run_world(2, asks_alone)[0] == [1.0, 1.0]
