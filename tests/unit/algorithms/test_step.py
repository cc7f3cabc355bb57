"""What a step says that is the same however its tokens are spread: randomness, own samples."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from megatron_stare.algorithms.batch_stats import Grouping
from megatron_stare.algorithms.needs import OLD
from megatron_stare.algorithms.offline import run_links
from tests.contract import random_batch

EVERYONE = list(range(20))


def test_it_is_uniform_over_the_loss_mask_and_zero_under_it():
    batch = random_batch(seed=0, num_groups=200)
    drawn = batch.step(1, range(800), None).uniform("salt")
    mask = batch.rollouts.loss_mask
    assert not drawn[~mask].any()
    assert (drawn < 1).all()
    shares = drawn[mask].histc(10, 0, 1) / mask.sum()
    torch.testing.assert_close(shares, torch.full((10,), 0.1), rtol=0, atol=0.01)
    assert len(drawn[mask].unique()) > 0.99 * mask.sum()


def test_every_token_draws_the_same_wherever_it_is():
    """On the rank that holds its sample, in the micro-batch that trains it, among masked tokens."""
    batch = random_batch(seed=1)
    whole = batch.step(1, EVERYONE, None).uniform("salt")
    for samples in ([3, 17], [19], [0], []):
        step = batch.step(1, samples, None)
        assert torch.equal(step.uniform("salt"), whole[step.index])
        half = slice(0, int(batch.rollouts.response_lengths[samples[:1]].sum()))
        assert torch.equal(step.at(half).uniform("salt"), whole[step.index[half]])
    more, where = batch.with_masked_tokens(seed=2)
    assert torch.equal(more.step(1, EVERYONE, None).uniform("salt")[where], whole)


def test_seed_step_and_salt_each_draw_anew():
    step = random_batch(seed=3).step(1, EVERYONE, None)
    others = {
        "seed": replace(step, seed=7).uniform("salt"),
        "step": replace(step, number=2).uniform("salt"),
        "salt": step.uniform("pepper"),
    }
    mask, drawn = step.mask, step.uniform("salt")
    for what, other in others.items():
        both = torch.stack([drawn[mask], other[mask]])
        assert (both[0] != both[1]).float().mean() > 0.99, what
        assert abs(both.corrcoef()[0, 1]) < 0.15, what
    assert torch.equal(replace(step, seed=-(2**63)).uniform("salt") > 0, mask)


def test_clip_cov_draws_one_of_its_candidates_at_random():
    """Those of the golden case: the first token and the last."""
    samples = [
        {"logprobs": [-0.2, -2.5, -0.9], "advantages": 2.0},
        {"logprobs": [-0.1, -1.0, -3.0], "advantages": -1.5},
    ]
    seen = set()
    for number in range(1, 20):
        credit, _ = run_links(["clip_cov"], samples, step=number)
        first, second = credit["weights"]
        assert first[1:] + second[:2] == [1.0] * 4
        seen.add((first[0], second[2]))
    assert seen == {(0.0, 1.0), (1.0, 0.0)}


@pytest.mark.parametrize("low", [-10.0, 4.0])
def test_clip_cov_silences_nothing_without_candidates(low):
    samples = [{"logprobs": [-0.1, -0.2], "advantages": 1.0}]
    credit, _ = run_links([{"clip_cov": {"low": low, "high": low + 1}}], samples)
    assert credit["weights"] == [[1.0, 1.0]]


@pytest.mark.parametrize("samples", [EVERYONE, [3, 17, 4], [19], [0], []])
def test_statistics_of_own_samples_are_those_of_the_batch_s(samples):
    """To the bit, for the tokens of this rank; and they ask nothing of the other ones."""
    batch = random_batch(seed=3)
    step = batch.step(1, samples, None)
    own, all_samples = step.own_samples, step.by(Grouping.by_sample)
    values = step[OLD].logprobs
    for name in ("count", "sum", "mean", "std", "min", "max"):
        arguments = () if name == "count" else (values,)
        found, expected = (getattr(stats, name)(*arguments) for stats in (own, all_samples))
        assert len(found) == len(samples)
        found = own.of_tokens(found).expand_as(step.mask)
        assert torch.equal(found.nan_to_num(-7.5), all_samples.of_tokens(expected).nan_to_num(-7.5))
    found, expected = (stats.quantile(values, 0.3) for stats in (own, all_samples))
    found = own.of_tokens(found).expand_as(step.mask)
    assert torch.equal(found.nan_to_num(-7.5), all_samples.of_tokens(expected).nan_to_num(-7.5))
    assert torch.equal(own.top_share(values, 0.3), all_samples.top_share(values, 0.3))
    assert torch.equal(own.whiten(values), all_samples.whiten(values))
