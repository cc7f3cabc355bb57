"""The mismatch of trainer and engine is measured over the global batch, exactly."""

import math

import pytest
import torch
import torch.distributed as dist

from megatron_stare.algorithms.hooks import Step
from megatron_stare.algorithms.needs import OLD, ROLLOUT
from megatron_stare.ops.partials import TokenScores
from megatron_stare.run.facts import has_rollout_logprobs
from megatron_stare.run.step_metrics import token_metrics
from megatron_stare.types import RolloutBatch
from tests.worlds import run_world


def metrics_of_a_part(rank: int, logprobs, engine, mask, ends) -> dict[str, float]:
    """The tokens from one rank's end to the next are this rank's."""
    here = slice(ends[rank], ends[rank + 1])
    lengths = torch.tensor(ends).diff()
    nothing = torch.zeros_like(lengths)
    batch = RolloutBatch(
        nothing, nothing, lengths, mask, engine, nothing.float(), nothing.float(), nothing
    )
    index = torch.arange(len(mask))[here]
    sample_ids = batch.sample_ids[here]
    step = Step(1, 1.0, batch, index, sample_ids, mask[here], [[0]], dist.group.WORLD)
    step.facts[OLD] = TokenScores(logprobs[here], *torch.ones(3, here.stop - here.start))
    if has_rollout_logprobs(batch):
        step.facts[ROLLOUT] = engine[here]
    metrics = token_metrics(step)
    return {name: value for name, value in metrics.items() if name.startswith("mismatch/")}


def test_every_rank_logs_the_numbers_of_all_tokens():
    generator = torch.Generator().manual_seed(0)
    logprobs = -torch.empty(5000).exponential_(generator=generator)
    engine = logprobs + 0.3 * torch.randn(5000, generator=generator)
    mask = torch.rand(5000, generator=generator) < 0.9
    engine[~mask] = math.nan

    difference = (logprobs - engine)[mask].double()
    largest = difference.abs().sort(descending=True).values
    ratios = difference.exp()
    expected = {
        "mismatch/kl": -difference.mean(),
        "mismatch/mean": difference.abs().mean(),
        "mismatch/max": largest[0],
        "mismatch/p999": largest[math.ceil(0.001 * len(largest)) - 1],
        "mismatch/ess": ratios.mean().square() / ratios.square().mean(),
    }
    for ends in ((0, 3000, 5000), (0, 0, 5000)):
        for found in run_world(2, metrics_of_a_part, logprobs, engine, mask, ends):
            assert found == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-6)
    assert 0.8 < expected["mismatch/ess"] < 0.95  # exp(-0.3^2) for a normal difference


def test_without_log_probs_of_the_engine_nothing_is_known():
    logprobs, engine = torch.full((4,), -1.0), torch.tensor([-1.0, math.nan, -1.0, -1.0])
    mask = torch.ones(4, dtype=torch.bool)
    [found] = run_world(1, metrics_of_a_part, logprobs, engine, mask, (0, 4))
    assert len(found) == 5
    assert all(math.isnan(value) for value in found.values())
