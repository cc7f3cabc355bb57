"""The temperature of each token, by where its entropy stands."""

import pytest
import torch

from megatron_stare.ops.entropy_temperature import EntropyTemperature

LOGITS = torch.tensor([[4.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.0, 0.0]])


def entropies(logprobs):
    return -(logprobs.exp() * logprobs).sum(-1)


def test_golden_temperatures():
    """HAPO(heterogeneous)/temperature: h of -1, -0.4, 0, 0.5 and 1."""
    logs = torch.tensor([-4.0, -1.6, 0.0, 0.5, 1.0], dtype=torch.float64)
    rule = EntropyTemperature(pivot=0.0, above=1.0, below=4.0, tau=0.05)
    places = rule.places(logs.exp())
    assert places.tolist() == pytest.approx([-1, -0.4, 0, 0.5, 1])
    assert (1 + 0.05 * places).tolist() == pytest.approx([0.95, 0.98, 1, 1.025, 1.05])


def test_beyond_what_was_seen_it_moves_no_further():
    rule = EntropyTemperature(pivot=0.0, above=0.1, below=0.1, tau=0.5)
    assert rule.places(torch.tensor([0.0, 1e-3, 50.0])).tolist() == [-1, -1, 1]


def test_as_committed_tokens_of_low_entropy_are_hotter():
    rule = EntropyTemperature(pivot=0.0, above=1.0, below=-4.0, tau=0.05)
    assert rule.places(torch.tensor([-2.0]).exp()).item() == pytest.approx(0.5)


def test_factors_are_by_the_entropies_of_the_distributions():
    logprobs = LOGITS.log_softmax(-1)
    rule = EntropyTemperature(pivot=-1.0, above=2.0, below=3.0, tau=0.2)
    expected = 1 + 0.2 * rule.places(entropies(logprobs))
    torch.testing.assert_close(rule.factors(logprobs), expected)


def test_a_token_that_cannot_come_changes_nothing():
    logprobs = LOGITS.log_softmax(-1)
    more = torch.cat([LOGITS, torch.full((3, 2), -torch.inf)], dim=1).log_softmax(-1)
    rule = EntropyTemperature(pivot=-1.0, above=2.0, below=3.0, tau=0.2)
    torch.testing.assert_close(rule.factors(more), rule.factors(logprobs))


def test_before_there_are_statistics_no_temperature_moves():
    assert EntropyTemperature().factors(LOGITS.log_softmax(-1)).tolist() == [1, 1, 1]
