"""The embedded engine on tiny models: right log-probs, reproducible samples, strict weights."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.embedded import EmbeddedEngine
from megatron_stare.engines.engine import Request
from megatron_stare.errors import UserError
from megatron_stare.ops.entropy_temperature import EntropyTemperature
from megatron_stare.rollout.stop_tokens import stop_token_ids
from tests.models import EOS_ID, VOCAB_SIZE, edit_json, hf_tensors, make_hf_folder
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


@torch.no_grad()
def test_tokens_have_the_temperatures_they_were_drawn_at(folder, engine):
    """Which are those of the rule, and give their log-probs in a forward pass."""
    rule = EntropyTemperature(pivot=1.6, above=0.2, below=0.2, tau=0.4)
    requests = [replace(request, rule=rule) for request in requests_of(PROMPTS, 4)]
    sampling = SAMPLING.model_copy(update={"temperature": 0.8})
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    found = []
    for sample in engine.generate(requests, sampling, seed=1):
        ids = torch.tensor([[*sample.prompt.token_ids, *sample.token_ids]])
        logits = model(ids).logits[0, len(sample.prompt.token_ids) - 1 : -1]
        expected = 0.8 * rule.factors(torch.log_softmax(logits / 0.8, dim=-1))
        own = torch.tensor(sample.temperatures)
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=0)
        logprobs = torch.log_softmax(logits / own[:, None], dim=-1)
        logprobs = logprobs.gather(-1, torch.tensor(sample.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(sample.logprobs), logprobs, rtol=0, atol=1e-5)
        found += sample.temperatures
    assert max(found) - min(found) > 0.1


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


@pytest.mark.parametrize("change", [{"pad_token_id": 10**6}, {"attention_dropout": "much"}])
def test_a_config_that_transformers_cannot_build_is_a_user_error(folder, tmp_path, change):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    edit_json(tmp_path / "config.json", **change)
    with pytest.raises(UserError, match=r"config\.json: refused by transformers: \w"):
        make_engine(tmp_path)


def test_the_engine_leaves_torch_as_it_found_it(folder):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    for _ in make_engine(folder).generate(requests_of(PROMPTS, 1), SAMPLING, seed=1):
        assert not torch.is_inference_mode_enabled(), "a consumer must be able to train"
    torch.testing.assert_close(torch.rand(4), expected)


def begun_at(sample, length: int) -> Request:
    """What is asked of a sample that was stopped there; its last tokens are somebody else's."""
    tokens = slice(0, length)
    mask = tuple(place < length - 2 for place in range(length))
    fields = {name: getattr(sample, name)[tokens] for name in ("token_ids", "logprobs")}
    versions = sample.weight_versions[tokens]
    begun = replace(
        sample, **fields, loss_mask=mask, weight_versions=versions, finish_reason="aborted"
    )
    return Request(sample.prompt, sample.index, begun)


def test_what_goes_on_draws_the_tokens_that_it_would_have(engine, samples):
    """From any place, be it in the middle of a batch in which others have just begun."""
    long = [sample for sample in samples.values() if len(sample.token_ids) > 6]
    requests = [begun_at(s, 3 + place % 4) for place, s in enumerate(long)]
    requests += [Request(s.prompt, s.index) for s in samples.values() if s not in long]
    found = {(s.prompt.uid, s.index): s for s in engine.generate(requests, SAMPLING, seed=1)}
    assert len(long) > 10
    assert token_ids(found) == token_ids(samples)
    for request in requests:
        sample, expected = found[request.key], samples[request.key]
        torch.testing.assert_close(
            torch.tensor(sample.logprobs), torch.tensor(expected.logprobs), rtol=0, atol=1e-5
        )
        assert (sample.text, sample.finish_reason) == (expected.text, expected.finish_reason)
        if request.begun is not None:
            before = request.begun.loss_mask
            assert sample.loss_mask == before + (True,) * (len(sample.token_ids) - len(before))


def test_siblings_that_have_gone_the_same_way_share_it(engine, samples):
    """And one of them stands where all of them do: it has nothing behind what is shared."""
    way = samples[PROMPTS[0].uid, 0]
    siblings = [replace(way, index=index) for index in range(9, 13)]
    requests = [begun_at(s, length) for s, length in zip(siblings, (5, 4, 5, 6), strict=True)]
    alone = [next(engine.generate([request], SAMPLING, seed=1)) for request in requests]
    together = {s.index: s for s in engine.generate(requests, SAMPLING, seed=1)}
    assert [together[sample.index].token_ids for sample in alone] == [s.token_ids for s in alone]


def test_each_request_may_have_limits_and_ends_of_its_own(engine, samples):
    (key, first), (other, second) = list(samples.items())[:2]
    stop = first.token_ids[4]
    place = first.token_ids.index(stop)
    limited = Request(second.prompt, second.index, max_tokens=3)
    ended = Request(first.prompt, first.index, stop_ids=(stop,))
    found = {s.index: s for s in engine.generate([limited, ended], SAMPLING, seed=1)}
    assert found[other[1]].token_ids == second.token_ids[:3]
    assert found[other[1]].finish_reason == "length"
    assert found[key[1]].token_ids == first.token_ids[: place + 1]
    assert found[key[1]].finish_reason == "stop"


def test_what_is_stopped_comes_as_it_stands_and_goes_on_from_there(engine, samples):
    stopped = []
    for sample in engine.generate(requests_of(PROMPTS, 8), SAMPLING, seed=1):
        stopped.append(sample)
        engine.interrupt()
    running = [sample for sample in stopped if sample.finish_reason == "aborted"]
    assert len(stopped) == 32
    assert running
    assert all(sample.token_ids for sample in running)
    requests = [Request(sample.prompt, sample.index, sample) for sample in running]
    rest = list(engine.generate(requests, SAMPLING, seed=1))
    whole = [sample for sample in stopped if sample.finish_reason != "aborted"] + rest
    assert token_ids({(s.prompt.uid, s.index): s for s in whole}) == token_ids(samples)


class Follow:
    """Asks once more for each sample that ended at its limit."""

    def __init__(self) -> None:
        self.waiting: list[Request] = []

    def take(self, wait: str) -> list[Request]:
        waiting, self.waiting = self.waiting, []
        return waiting

    def when_known(self, tell) -> None:
        pass


def test_answers_may_lead_to_further_requests(engine, samples):
    follow, found = Follow(), {}
    first = [Request(s.prompt, s.index, max_tokens=4) for s in samples.values()]
    for sample in engine.generate(first, SAMPLING, seed=1, more=follow):
        is_cut = sample.finish_reason == "length" and len(sample.token_ids) < 40
        if is_cut:
            aborted = replace(sample, finish_reason="aborted")
            follow.waiting.append(Request(sample.prompt, sample.index, aborted, max_tokens=20))
        else:
            found[sample.prompt.uid, sample.index] = sample
    assert token_ids(found) == token_ids(samples)


def test_ids_of_the_vocabulary_only(samples):
    assert max(max(sample.token_ids) for sample in samples.values()) < VOCAB_SIZE
