"""The replay engine and what it reads."""

import json
import math

import pytest
import torch

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.errors import UserError
from tests.models import EOS_ID, VOCAB_SIZE
from tests.requests_of import requests_of
from tests.unit.rollout.problems import TOKENIZER, make_prompt, write_jsonl

SAMPLING = SamplingConfig(max_response_tokens=20)
PROMPT = make_prompt("2+2=")


def make_engine(folder, rows) -> ReplayEngine:
    path = write_jsonl(folder / "recorded.jsonl", rows)
    engine = ReplayEngine(path, TOKENIZER, vocab_size=VOCAB_SIZE)
    engine.update_weights([], version=0)
    return engine


def texts(engine, num_samples, prompt=PROMPT):
    return [s.text for s in engine.generate(requests_of([prompt], num_samples), SAMPLING, seed=0)]


def rows(*responses, prompt="2+2="):
    return [{"prompt": prompt, "response": response} for response in responses]


def test_a_text_becomes_tokens_with_an_end_and_unknown_logprobs(tmp_path):
    engine = make_engine(tmp_path, rows("four"))
    (sample,) = engine.generate(requests_of([PROMPT], 1), SAMPLING, seed=0)
    assert sample.prompt is PROMPT
    assert sample.token_ids == (*TOKENIZER.encode("four"), EOS_ID)
    assert all(math.isnan(value) for value in sample.logprobs)
    assert len(sample.logprobs) == len(sample.loss_mask) == 5
    assert all(sample.loss_mask)
    assert (sample.finish_reason, set(sample.weight_versions)) == ("stop", {0})


def test_a_truncated_text_has_no_end(tmp_path):
    engine = make_engine(tmp_path, [{**rows("four")[0], "finish_reason": "length"}])
    (sample,) = engine.generate(requests_of([PROMPT], 1), SAMPLING, seed=0)
    assert sample.token_ids == tuple(TOKENIZER.encode("four"))
    assert sample.finish_reason == "length"


def test_recorded_tokens_are_never_tokenized_again(tmp_path):
    row = {
        **rows("ab")[0],
        "token_ids": [5, 6, EOS_ID],
        "logprobs": [-1.5, None, -0.25],
        "loss_mask": [True, False, True],
    }
    (sample,) = make_engine(tmp_path, [row]).generate(requests_of([PROMPT], 1), SAMPLING, seed=0)
    assert sample.token_ids == (5, 6, EOS_ID)
    assert sample.loss_mask == (True, False, True)
    assert sample.logprobs[::2] == (-1.5, -0.25)
    assert math.isnan(sample.logprobs[1])


def test_samples_are_found_by_the_prompts_text(tmp_path):
    engine = make_engine(tmp_path, rows("a1") + rows("b1", prompt="other") + rows("a2"))
    prompts = [make_prompt("other"), PROMPT]
    samples = list(engine.generate(requests_of(prompts, 1), SAMPLING, seed=0))
    assert [(s.prompt.uid, s.index, s.text) for s in samples] == [
        ("other", 0, "b1"),
        ("2+2=", 0, "a1"),
    ]


def test_a_recorded_sample_is_served_once_per_weight_version_in_turn(tmp_path):
    engine = make_engine(tmp_path, rows("1", "2", "3"))
    assert texts(engine, 2) == ["1", "2"]
    assert texts(engine, 2) == [], "one is left, two were asked"
    engine.update_weights(iter([("w", torch.zeros(1))]), version=1)
    assert texts(engine, 2) == ["3", "1"]
    assert texts(engine, 1) == ["2"]
    assert texts(engine, 1) == []
    assert engine.weight_version == 1


def test_a_weight_stream_is_consumed(tmp_path):
    # Ranks that gather the tensors together wait for each other until the end of the stream.
    stream = iter([("a", torch.zeros(1)), ("b", torch.zeros(1))])
    make_engine(tmp_path, rows("1")).update_weights(stream, version=1)
    assert list(stream) == []


def test_a_prompt_with_too_few_recorded_samples_is_named(tmp_path):
    engine = make_engine(tmp_path, rows("1"))
    with pytest.raises(UserError, match=r"1 samples of prompt test:2\+2=, expected at least .*=2"):
        texts(engine, 2)
    with pytest.raises(UserError, match=r"recorded\.jsonl: holds 0 samples of prompt test:new"):
        texts(engine, 1, make_prompt("new"))


def test_a_response_over_the_limit_is_refused(tmp_path):
    engine = make_engine(tmp_path, rows("x" * 30))
    with pytest.raises(UserError, match=r"31 tokens, expected at most max_response_tokens=20"):
        texts(engine, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not a recorded sample"),
        ("[1]", "not a recorded sample"),
        ('{"prompt": "p"}', "response: Field required"),
        ('{"prompt": "p", "response": 3}', "response: Input should be a valid string"),
        ('{"prompt": "p", "response": "", "finish_reason": "length"}', "no tokens"),
        ('{"prompt": "p", "response": "r", "token_ids": [-1]}', "token_ids.0"),
        ('{"prompt": "p", "response": "r", "token_ids": [259]}', "id 259 is outside"),
        ('{"prompt": "p", "response": "r", "logprobs": [-1.0]}', "1 logprobs for 2 tokens"),
        ('{"prompt": "p", "response": "r", "loss_mask": [true]}', "1 loss_mask for 2 tokens"),
        ('{"prompt": "p", "response": "r", "finish_reason": "tired"}', "finish_reason"),
        ('{"prompt": "p", "response": "r", "seconds": NaN}', "seconds: Input should be a finite"),
        ('{"prompt": "p", "response": "r", "logprobs": [-Infinity, -1]}', "an infinite one"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    path = tmp_path / "recorded.jsonl"
    path.write_text(json.dumps(rows("good")[0]) + "\n\n" + line + "\n")
    with pytest.raises(UserError, match=rf"recorded\.jsonl:3: .*{message}"):
        ReplayEngine(path, TOKENIZER, vocab_size=VOCAB_SIZE)


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_a_missing_or_empty_file_is_named(tmp_path, content):
    path = tmp_path / "recorded.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"recorded\.jsonl: "):
        ReplayEngine(path, TOKENIZER, vocab_size=VOCAB_SIZE)
