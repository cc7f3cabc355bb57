"""Quadrants: every token with an advantage is in exactly one, the others in none."""

import torch

from megatron_stare.algorithms.quadrants import quadrants
from megatron_stare.algorithms.stare import stare_selection


def test_tokens_are_told_apart_by_sign_and_selection():
    advantages = torch.tensor([1.0, 1.0, 0.0, -1.0, -2.0, -1.0])
    surprisal = torch.tensor([3.0, 1.0, 9.0, 0.5, 5.0, 0.1])
    selection = stare_selection(
        surprisal, advantages, top_share=0.5, token_ids=torch.arange(6)
    )  # tokens 0; 4 and 3
    found = quadrants(selection)
    assert {name: members.nonzero().flatten().tolist() for name, members in found.items()} == {
        "pos_high": [0],
        "pos_low": [1],
        "neg_high": [3, 4],
        "neg_low": [5],
    }


def test_every_token_with_an_advantage_is_in_one():
    generator = torch.Generator().manual_seed(0)
    surprisal = torch.rand(60, generator=generator)
    advantages = torch.randint(-1, 2, (60,), generator=generator).float()
    selection = stare_selection(surprisal, advantages, top_share=0.2, token_ids=torch.arange(60))
    members = torch.stack(list(quadrants(selection).values()))
    assert torch.equal(members.sum(0), (advantages != 0).long())
