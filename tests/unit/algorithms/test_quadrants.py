"""Quadrant sums: every token with an advantage counts once, and ranks add up."""

import torch

from megatron_stare.algorithms.quadrants import QUADRANTS, quadrant_sums
from megatron_stare.algorithms.stare import StareSelection, stare_selection

NAN = float("nan")


def test_counts_and_entropies_by_sign_and_selection():
    entropies = torch.tensor([0.5, 0.25, 1.0, 2.0, 4.0, 8.0])
    advantages = torch.tensor([1.0, 1.0, 0.0, -1.0, -2.0, -1.0])
    surprisal = torch.tensor([3.0, 1.0, 9.0, 0.5, 5.0, 0.1])
    selection = stare_selection(
        surprisal, advantages, top_share=0.5, token_ids=torch.arange(6)
    )  # tokens 0; 4 and 3
    counts, sums = quadrant_sums(entropies, advantages, selection).tolist()
    assert dict(zip(QUADRANTS, counts, strict=True)) == {
        "pos_high": 1,
        "pos_low": 1,
        "neg_high": 2,
        "neg_low": 1,
    }
    assert sums == [0.5, 0.25, 6.0, 8.0]


def test_sums_of_parts_are_the_sums_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    entropies = torch.rand(60, generator=generator)
    advantages = torch.randint(-1, 2, (60,), generator=generator).float()
    whole = stare_selection(entropies, advantages, top_share=0.2, token_ids=torch.arange(60))
    parts = [
        quadrant_sums(
            entropies[part],
            advantages[part],
            StareSelection(whole.positive[part], whole.negative[part], NAN, NAN),
        )
        for part in (slice(0, 7), slice(7, 7), slice(7, 60))
    ]
    total = quadrant_sums(entropies, advantages, whole)
    torch.testing.assert_close(sum(parts), total)
    assert total[0].sum() == (advantages != 0).sum()


def test_a_token_outside_the_loss_is_not_looked_at():
    entropies, advantages = torch.tensor([NAN, 1.0]), torch.tensor([0.0, 1.0])
    selection = stare_selection(entropies, advantages, top_share=1.0, token_ids=torch.arange(2))
    assert quadrant_sums(entropies, advantages, selection)[1].tolist() == [1.0, 0.0, 0.0, 0.0]
