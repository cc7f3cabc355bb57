"""The embedded engine on tiny models: right log-probs, reproducible samples, strict weights."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.embedded import EmbeddedEngine
from megatron_stare.errors import UserError
from megatron_stare.rollout.stop_tokens import stop_token_ids
from tests.models import EOS_ID, VOCAB_SIZE, hf_tensors, make_hf_folder
from tests.requests_of import requests_of
from tests.unit.rollout.problems import TOKENIZER, make_prompt

PROMPTS = [make_prompt(text) for text in ("2 + 2 = ", "a", "What is the capital of France?", "12")]
SAMPLING = SamplingConfig(max_response_tokens=40)


def make_engine(folder, *, max_batch_sequences: int = 64) -> EmbeddedEngine:
    engine = EmbeddedEngine(
        folder,
        TOKENIZER,
        device=torch.device("cpu"),
        dtype=torch.float32,
        max_batch_sequences=max_batch_sequences,
        stop_ids=stop_token_ids(folder, TOKENIZER),
    )
    engine.load_weights(folder, version=0)
    return engine


def generate(engine, prompts=PROMPTS, num_samples=3, sampling=SAMPLING, seed=1) -> dict:
    samples = list(engine.generate(requests_of(prompts, num_samples), sampling, seed=seed))
    by_key = {(sample.prompt.uid, sample.index): sample for sample in samples}
    assert len(by_key) == len(samples), "a sample came twice"
    return by_key


def token_ids(samples: dict) -> dict:
    return {key: sample.token_ids for key, sample in samples.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_hf_folder(tmp_path_factory.mktemp("qwen3") / "model", "qwen3", tied=True)


@pytest.fixture(scope="module")
def engine(folder):
    return make_engine(folder)


@pytest.fixture(scope="module")
def samples(engine):
    return generate(engine, num_samples=8)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "qwen3_moe"])
@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_logprobs_equal_a_teacher_forced_forward_pass(tmp_path, family, tied):
    folder = make_hf_folder(tmp_path / "model", family, tied=tied)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    sampling = SamplingConfig(max_response_tokens=40, temperature=1.3)
    for sample in generate(make_engine(folder), sampling=sampling).values():
        ids = torch.tensor([[*sample.prompt.token_ids, *sample.token_ids]])
        logits = model(ids).logits[0, len(sample.prompt.token_ids) - 1 : -1]
        expected = torch.log_softmax(logits / 1.3, dim=-1)
        expected = expected.gather(-1, torch.tensor(sample.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(sample.logprobs), expected, rtol=0, atol=1e-5)


def test_the_likeliest_tokens_are_those_of_transformers_generate(folder, engine):
    model = AutoModelForCausalLM.from_pretrained(folder)
    greedy = generate(engine, num_samples=1, sampling=SAMPLING.model_copy(update={"top_k": 1}))
    for prompt in PROMPTS:
        ids = torch.tensor([prompt.token_ids])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40
        )
        assert greedy[prompt.uid, 0].token_ids == tuple(expected[0, ids.shape[1] :].tolist())
        assert set(greedy[prompt.uid, 0].logprobs) == {0.0}


def test_every_prompt_gets_all_its_samples(samples):
    assert set(samples) == {(prompt.uid, index) for prompt in PROMPTS for index in range(8)}


def test_a_sample_does_not_depend_on_its_batch(folder, samples):
    few = generate(make_engine(folder, max_batch_sequences=7), PROMPTS[::-1], num_samples=8)
    alone = generate(make_engine(folder, max_batch_sequences=1), PROMPTS[1:2], num_samples=2)
    assert token_ids(few) == token_ids(samples)
    assert token_ids(alone).items() <= token_ids(samples).items()


def test_another_seed_gives_other_samples(engine, samples):
    again = generate(engine, num_samples=8, seed=1)
    other = generate(engine, num_samples=8, seed=2)
    assert token_ids(again) == token_ids(samples)
    assert not set(token_ids(other).values()) & set(token_ids(samples).values())


def test_responses_end_at_a_stop_token_or_at_the_limit(samples):
    reasons = {sample.finish_reason for sample in samples.values()}
    assert reasons == {"stop", "length"}, "the model is to show both"
    for sample in samples.values():
        *before, last = sample.token_ids
        assert EOS_ID not in before
        if sample.finish_reason == "stop":
            assert last == EOS_ID
        else:
            assert last != EOS_ID
            assert len(sample.token_ids) == 40
        assert len(sample.logprobs) == len(sample.loss_mask) == len(sample.token_ids)
        assert all(sample.loss_mask)
        assert sample.text == TOKENIZER.decode(list(sample.token_ids), skip_special_tokens=True)


def test_a_lower_limit_cuts_the_same_samples(engine, samples):
    short = generate(engine, num_samples=8, sampling=SamplingConfig(max_response_tokens=5))
    for key, sample in short.items():
        assert sample.token_ids == samples[key].token_ids[:5]


def test_a_stop_token_on_the_last_allowed_position_is_a_stop(engine, samples):
    key, stopped = next((k, s) for k, s in samples.items() if s.finish_reason == "stop")
    limit = SamplingConfig(max_response_tokens=len(stopped.token_ids))
    assert generate(engine, num_samples=8, sampling=limit)[key].finish_reason == "stop"


def test_new_weights_change_the_samples_and_the_version(tmp_path, folder, samples):
    other = make_hf_folder(tmp_path / "other", "qwen3", tied=True, seed=1)
    engine = make_engine(folder)
    engine.update_weights(hf_tensors(other).items(), version=7)
    updated = generate(engine, num_samples=8)
    assert engine.weight_version == 7
    assert {v for sample in updated.values() for v in sample.weight_versions} == {7}
    assert token_ids(updated) != token_ids(samples)
    assert token_ids(updated) == token_ids(generate(make_engine(other), num_samples=8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.bias": torch.zeros(48)}, "'model.norm.bias' is not a parameter"),
        ({"model.norm.weight": torch.zeros(1)}, r"shape \[1\], the engine's has \[48\]"),
        ({"model.norm.weight": None}, "missing for the engine: model.norm.weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder, change, message):
    engine = make_engine(folder)
    tensors = {k: v for k, v in (hf_tensors(folder) | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        engine.update_weights(tensors.items(), version=1)
    assert engine.weight_version == 0


def test_a_folder_without_weights_is_a_user_error(folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    engine = make_engine(folder)
    with pytest.raises(UserError, match="no weights"):
        engine.load_weights(tmp_path, version=1)


def test_the_engine_leaves_torch_as_it_found_it(folder):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    for _ in make_engine(folder).generate(requests_of(PROMPTS, 1), SAMPLING, seed=1):
        assert not torch.is_inference_mode_enabled(), "a consumer must be able to train"
    torch.testing.assert_close(torch.rand(4), expected)


def test_ids_of_the_vocabulary_only(samples):
    assert max(max(sample.token_ids) for sample in samples.values()) < VOCAB_SIZE
