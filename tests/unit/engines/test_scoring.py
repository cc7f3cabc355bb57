"""Scores of the embedded engine: those of a teacher-forced pass, in whatever batch."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.engine import Score
from megatron_stare.errors import UserError
from tests.models import VOCAB_SIZE, hf_tensors, make_hf_folder
from tests.requests_of import requests_of
from tests.unit.engines.test_embedded import PROMPTS, SAMPLING, make_engine

SCORES = [
    Score((1, 2), 1),
    Score(tuple(range(40)), 1),
    Score(tuple(range(200, 140, -1)), 57),
    Score((5, VOCAB_SIZE - 1, 0, 7), 2),
    Score(tuple(range(30)), 12),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_hf_folder(tmp_path_factory.mktemp("qwen3") / "model", "qwen3")


@torch.no_grad()
def teacher_forced(folder, score: Score) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    ids = torch.tensor([score.token_ids])
    logprobs = model(ids).logits[0, :-1].log_softmax(-1)
    return logprobs.gather(-1, ids[0, 1:, None])[score.start - 1 :, 0]


@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3_moe"])
@pytest.mark.parametrize("max_batch_sequences", [1, 2, 64])
def test_scores_equal_a_teacher_forced_forward_pass(tmp_path, family, max_batch_sequences):
    folder = make_hf_folder(tmp_path / "model", family)
    found = make_engine(folder, max_batch_sequences=max_batch_sequences).score(SCORES)
    for score, logprobs in zip(SCORES, found, strict=True):
        expected = teacher_forced(folder, score)
        torch.testing.assert_close(torch.tensor(logprobs), expected, rtol=0, atol=1e-5)


def test_samples_score_as_they_were_drawn_while_others_are_still_generated(folder):
    """At temperature 1, whatever the sampling's is, and without a trace in what comes next."""
    engine = make_engine(folder, max_batch_sequences=3)
    drawn = list(engine.generate(requests_of(PROMPTS, 2), SAMPLING, seed=1))
    beside = []
    for sample in engine.generate(requests_of(PROMPTS, 2), SAMPLING, seed=1):
        whole = sample.prompt.token_ids + sample.token_ids
        (logprobs,) = engine.score([Score(whole, len(sample.prompt.token_ids))])
        torch.testing.assert_close(
            torch.tensor(logprobs), torch.tensor(sample.logprobs), rtol=0, atol=1e-5
        )
        beside.append(sample)
    assert [s.token_ids for s in beside] == [s.token_ids for s in drawn]


def test_no_scores_are_none(folder):
    assert make_engine(folder).score([]) == []


@pytest.mark.parametrize("start", [0, -1, 2, 9])
def test_there_is_something_to_score_and_something_before_it(start):
    with pytest.raises(ValueError, match=f"from token {start} of 2, expected one from 1 on"):
        Score((1, 2), start)


@pytest.mark.parametrize("token", [VOCAB_SIZE, -1])
def test_a_token_outside_the_vocabulary_is_refused(folder, token):
    with pytest.raises(UserError, match=f"score 1: .* expected 0 to {VOCAB_SIZE - 1}, the model"):
        make_engine(folder).score([Score((1, 2), 1), Score((1, token, 2), 1)])


def test_weights_that_give_no_distribution_are_the_error_that_generating_gives(folder):
    engine = make_engine(folder)
    weights = hf_tensors(folder)
    weights["model.norm.weight"][0] = torch.nan
    engine.update_weights(weights.items(), 3)
    with pytest.raises(UserError, match="policy of step 3 cannot score: a logit is not finite"):
        engine.score(SCORES)
    with pytest.raises(UserError, match="policy of step 3 cannot generate: a logit is not finite"):
        list(engine.generate(requests_of(PROMPTS, 1), SamplingConfig(), seed=0))
