"""Log-probs without unlikely tokens, on one rank, against a dense float64 reference."""

import pytest
import torch

from megatron_stare.ops.logprob_entropy import linear_token_scores
from megatron_stare.ops.min_p import REMOVED, min_p_logprobs
from tests.dense_head import dense_min_p, random_head


@pytest.mark.parametrize("kappa", [1e-6, 0.02, 0.3, 0.9])
@pytest.mark.parametrize("temperature", [1.0, 0.7, torch.linspace(0.5, 2.0, 23)])
def test_it_is_that_of_the_dense_reference(kappa, temperature):
    hidden, weight, targets, _ = random_head(23, 16, 40, 37)
    options = {"vocab_size": 37, "temperature": temperature}
    scores = linear_token_scores(hidden, weight, targets, **options)
    found = min_p_logprobs(hidden, weight, scores, kappa=kappa, **options)
    expected = dense_min_p(hidden, weight, targets, kappa=kappa, **options)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)


def test_golden_proxy():
    """Lp-Reg/proxy: of four tokens two are kept."""
    logits = torch.tensor([3.0, 1.0, -3.0, -1.5])
    hidden, weight, targets = torch.eye(1).expand(4, 1), logits[:, None], torch.arange(4)
    scores = linear_token_scores(hidden, weight, targets)
    found = min_p_logprobs(hidden, weight, scores, kappa=0.02)
    assert found[:2].exp().tolist() == pytest.approx([0.880797, 0.119203], abs=1e-6)
    assert found[2:].tolist() == [REMOVED, REMOVED]
