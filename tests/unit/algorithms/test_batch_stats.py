"""Statistics of a batch in one process: numpy's numbers, for any keys, whatever is left out."""

import math

import numpy as np
import pytest
import torch

from megatron_stare.algorithms.batch_stats import BatchStats, Grouping
from megatron_stare.types import RolloutBatch

LENGTHS = (3, 1, 5, 4, 2)
GROUPS = (7, 7, 2, 2, 2)


def batch_of(mask: torch.Tensor) -> RolloutBatch:
    zeros = torch.zeros(len(LENGTHS))
    return RolloutBatch(
        token_ids=torch.zeros(sum(LENGTHS), dtype=torch.int64),
        prompt_lengths=torch.zeros(len(LENGTHS), dtype=torch.int64),
        response_lengths=torch.tensor(LENGTHS),
        loss_mask=mask,
        rollout_logprobs=torch.zeros(sum(LENGTHS)),
        rewards=zeros,
        verdicts=zeros,
        group_ids=torch.tensor(GROUPS),
    )


def stats_and_values() -> tuple[RolloutBatch, BatchStats, torch.Tensor]:
    """One sample in group 2 is masked altogether; what is masked is NaN."""
    mask = torch.ones(sum(LENGTHS), dtype=torch.bool)
    mask[[1, 5, 13, 14]] = False
    batch = batch_of(mask)
    values = torch.randn(len(mask), generator=torch.Generator().manual_seed(0))
    return batch, BatchStats(batch, torch.arange(len(mask))), values.masked_fill(~mask, math.nan)


def keys_of(name: str, batch: RolloutBatch) -> Grouping | None:
    turns = Grouping(torch.arange(7), torch.tensor([2, 1, 1, 3, 2, 4, 2]))
    anchors = Grouping(torch.tensor([0, 1, 0, 2, 1, 0, 2]), turns.lengths)  # shared by samples
    return {
        "all": None,
        "sample": Grouping.by_sample(batch),
        "group": Grouping.by_group(batch),
        "group and position": Grouping.by_group_and_position(batch),
        "turn": turns,
        "anchor": anchors,
    }[name]


KEYS = ("all", "sample", "group", "group and position", "turn", "anchor")
EXPECTED = {
    "sum": (lambda stats, x: stats.sum(x), np.sum),
    "count": (lambda stats, x: stats.count(), len),
    "mean": (lambda stats, x: stats.mean(x), np.mean),
    "std": (lambda stats, x: stats.std(x), lambda x: np.std(x, ddof=1) if len(x) > 1 else 0.0),
    "biased std": (lambda stats, x: stats.std(x, unbiased=False), np.std),
    "min": (lambda stats, x: stats.min(x), np.min),
    "max": (lambda stats, x: stats.max(x), np.max),
    "quantile": (lambda stats, x: stats.quantile(x, 0.3), lambda x: np.quantile(x, 0.3)),
}


def test_a_place_is_among_tokens_that_the_policy_chose():
    """So that a tool's output, however long, moves no token to another place."""
    mask = torch.tensor([True, False, True, True, False, True, True])
    batch = RolloutBatch(
        token_ids=torch.zeros(7, dtype=torch.int64),
        prompt_lengths=torch.zeros(2, dtype=torch.int64),
        response_lengths=torch.tensor([4, 3]),
        loss_mask=mask,
        rollout_logprobs=torch.zeros(7),
        rewards=torch.zeros(2),
        verdicts=torch.zeros(2),
        group_ids=torch.tensor([5, 5]),
    )
    first, second = Grouping.by_group_and_position(batch).keys.split([4, 3])
    assert first[mask[:4]].tolist() == [0, 1, 2]
    assert second[mask[4:]].tolist() == [0, 1]


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("name", EXPECTED)
def test_every_statistic_is_the_one_of_numpy(name, keys):
    batch, whole, values = stats_and_values()
    grouping = keys_of(keys, batch)
    stats = whole if grouping is None else whole.by(grouping)
    found, expected = EXPECTED[name][0](stats, values), EXPECTED[name][1]
    assert found.dtype == torch.float64
    for key, number in enumerate(found.tolist()):
        members = values[(stats.keys == key) & stats.mask].double().numpy()
        if len(members) or name in ("sum", "count"):
            assert number == pytest.approx(expected(members), rel=1e-12, abs=1e-12)
        else:
            assert math.isnan(number)


@pytest.mark.parametrize("keys", KEYS)
def test_top_takes_the_largest_of_each_key_and_of_equals_the_first(keys):
    batch, whole, _ = stats_and_values()
    grouping = keys_of(keys, batch)
    stats = whole if grouping is None else whole.by(grouping)
    values = torch.arange(len(whole.mask)).remainder(2).float()
    k = (stats.count() / 2).ceil().long()
    chosen = stats.top(values, k)
    for key in range(len(k)):
        members = [i for i in range(len(values)) if stats.keys[i] == key and stats.mask[i]]
        best = sorted(members, key=lambda i: (-values[i].item(), i))[: int(k[key])]
        assert [i for i in members if chosen[i]] == sorted(best)
    assert not chosen[~stats.mask].any()


@pytest.mark.parametrize("round_up", [True, False])
@pytest.mark.parametrize("share", [1e-9, 0.2, 0.34, 0.7, 1.0])
@pytest.mark.parametrize("keys", KEYS)
def test_a_share_is_a_number_of_whole_tokens_and_at_least_one_of_any(keys, share, round_up):
    batch, stats, values = stats_and_values()
    grouping = keys_of(keys, batch)
    stats = stats if grouping is None else stats.by(grouping)
    count = stats.count()
    rounded = (share * count).ceil() if round_up else (share * count).floor()
    k = torch.minimum(rounded.clamp(min=1), count).long()
    found = stats.top_share(values, share, round_up=round_up)
    assert torch.equal(found, stats.top(values, k))
    assert torch.equal(stats.count(found).long(), k)


def test_a_number_that_is_none_ranks_as_zero_in_a_share():
    """Under a policy that is broken, whose update is skipped."""
    _, stats, values = stats_and_values()
    broken = values.masked_fill(values < 0, math.nan)
    ranked = stats.top_share(broken, 0.5)
    assert torch.equal(ranked, stats.top_share(broken.nan_to_num(), 0.5))


def test_what_is_asked_of_some_tokens_is_of_those_alone():
    _, stats, values = stats_and_values()
    where = stats.mask & (values > 0)
    assert stats.count(where).item() == where.sum()
    assert stats.min(values, where).item() > 0
    torch.testing.assert_close(stats.mean(values, where)[0], values[where].double().mean())
    whitened = stats.whiten(values, where)
    assert whitened[~where].abs().sum() == 0
    torch.testing.assert_close(whitened[where].mean(), torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(whitened[where].std(), torch.ones((), dtype=torch.float64))


def test_whitening_by_key_centres_each_of_them():
    batch, whole, values = stats_and_values()
    stats = whole.by(Grouping.by_group(batch))
    means = stats.mean(stats.whiten(values))
    torch.testing.assert_close(means, torch.zeros_like(means))


def test_what_is_the_mean_up_to_rounding_whitens_to_zero():
    """Its sign would be that of a sum's last bit."""
    _, stats, _ = stats_and_values()
    assert not stats.whiten(torch.full((15,), 0.1, dtype=torch.float64)).any()


def test_of_no_token_there_are_a_sum_and_a_count():
    _, stats, values = stats_and_values()
    nothing = torch.zeros_like(stats.mask)
    assert stats.sum(values, nothing).item() == stats.count(nothing).item() == 0
    for number in (
        *(stats.mean(values, nothing), stats.std(values, nothing), stats.min(values, nothing)),
        *(stats.max(values, nothing), stats.quantile(values, 0.5, nothing)),
    ):
        assert number.isnan()
    assert not stats.top(values, torch.tensor([0]), nothing).any()
    assert not stats.whiten(values, nothing).any()


def test_a_constant_has_no_spread_at_all():
    _, stats, _ = stats_and_values()
    assert stats.std(torch.full((15,), 0.1)).item() == 0


@pytest.mark.parametrize("keys", ["all", "sample"])
def test_nan_is_told_where_it_counts(keys):
    batch, whole, values = stats_and_values()
    stats = whole if keys == "all" else whole.by(Grouping.by_sample(batch))
    values[8] = math.nan  # of sample 2
    key = stats.keys[8]
    for found in (stats.mean(values), stats.min(values), stats.max(values), stats.std(values)):
        assert found[key].isnan()
    with pytest.raises(ValueError, match=r"token 8 (has the value|is) NaN"):
        stats.top(values, torch.ones(len(stats.count()), dtype=torch.int64))


@pytest.mark.parametrize("keys", ["all", "turn"])
def test_more_than_there_are_cannot_be_taken(keys):
    batch, whole, values = stats_and_values()
    grouping = keys_of(keys, batch)
    stats = whole if grouping is None else whole.by(grouping)
    with pytest.raises(ValueError, match="k = "):
        stats.top(values, stats.count().long() + 1)


def test_infinities_are_values():
    _, stats, values = stats_and_values()
    values[[0, 2]] = torch.tensor([math.inf, -math.inf])
    assert stats.max(values).item() == math.inf
    assert stats.min(values).item() == -math.inf
    assert stats.mean(values).isnan()
