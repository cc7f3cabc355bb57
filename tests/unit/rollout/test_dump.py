"""Sample dumps: complete, readable by others, and by the replay engine."""

import json
import math
from dataclasses import replace

import pytest

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.rollout.dump import dump_samples
from megatron_stare.types import Group, Reward
from tests.models import VOCAB_SIZE
from tests.requests_of import requests_of
from tests.unit.rollout.problems import TOKENIZER, make_group, make_prompt, make_sample

KEPT, DROPPED = make_group(make_prompt("kept"), [1, 0]), make_group(make_prompt("dropped"), [0, 0])


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_sample_is_a_line(tmp_path):
    path = tmp_path / "samples" / "step_000001.jsonl"
    dump_samples(path, [KEPT], [0.7, -0.7], [DROPPED])
    lines = read(path)
    keys = ("uid", "group", "index", "kept", "correct", "advantage")
    assert [tuple(line[key] for key in keys) for line in lines] == [
        ("kept", 0, 0, True, 1, 0.7),
        ("kept", 0, 1, True, 0, -0.7),
        ("dropped", 1, 0, False, 0, None),
        ("dropped", 1, 1, False, 0, None),
    ]
    assert lines[0] == {
        **dict(zip(keys, ("kept", 0, 0, True, 1, 0.7), strict=True)),
        "row": "test:kept",
        "source": "",
        "prompt": "kept",
        "answer": "yes",
        "response": "yes",
        "reward": 1,
        "parts": {},
        "failure": None,
        "dropped": None,
        "finish_reason": "stop",
        "origin": "policy",
        "propensity": None,
        "weight_versions": [[3, 4]],
        "seconds": 0.25,
        "reward_seconds": 0.0,
        "token_ids": list(KEPT.samples[0].token_ids),
        "logprobs": [-0.5] * 4,
        "loss_mask": [True] * 4,
    }


def test_a_line_says_what_a_reward_is_made_of_and_why_a_group_was_dropped(tmp_path):
    reward = Reward(0.5, 1.0, None, 0.0, parts={"verdict": 1.0, "overlong": -0.5})
    dropped = replace(DROPPED, rewards=(reward, *DROPPED.rewards[1:]))
    path = tmp_path / "step_000001.jsonl"
    dump_samples(path, [KEPT], [0.7, -0.7], [dropped], {"dropped": "filter mixed"})
    lines = read(path)
    assert [line["dropped"] for line in lines] == [None, None, "filter mixed", "filter mixed"]
    assert lines[2]["parts"] == {"verdict": 1.0, "overlong": -0.5}


def test_a_dump_can_be_replayed(tmp_path):
    prompt = make_prompt("a prompt\nin lines,\u2028«quotes» and 数")
    drawn_at = (0.95, 1 / 3, 1.0, 1.05)
    samples = (
        make_sample(prompt, 0, "✓", logprobs=(-0.1, -1 / 3, -2e-9, -12.0), temperatures=drawn_at),
        make_sample(
            prompt,
            1,
            "cut\x85",
            token_ids=(1, 2),
            loss_mask=(True, False),
            logprobs=(-0.5, math.nan),
            finish_reason="length",
        ),
    )
    rewards = (Reward(1.0, 1.0, None, 0.1), Reward(0.0, 0.0, "deadline", 10.0))
    dump_samples(tmp_path / "dump.jsonl", [Group(prompt, samples, rewards)], [1.0, -1.0])

    engine = ReplayEngine(tmp_path / "dump.jsonl", TOKENIZER, vocab_size=VOCAB_SIZE)
    engine.update_weights([], version=3)
    first, second = engine.generate(requests_of([prompt], 2), SamplingConfig(), seed=0)

    assert first == samples[0]
    assert math.isnan(second.logprobs[1])
    assert replace(second, logprobs=()) == replace(samples[1], logprobs=())


def test_a_dump_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "step.jsonl"
    dump_samples(path, [KEPT], [0.7, -0.7])
    before = path.read_text()
    with pytest.raises(ValueError, match="shorter"):
        dump_samples(path, [KEPT, DROPPED], [0.7, -0.7])
    assert path.read_text() == before


def test_half_of_a_surrogate_pair_in_any_text_is_data(tmp_path):
    prompt = replace(make_prompt("a"), text="a \ud83d")
    samples = (replace(make_sample(prompt, 0, "yes"), text="yes \udc00 ✓"),)
    rewards = (Reward(0.0, 0.0, "ValueError: \ud83d", 0.1),)
    dump_samples(tmp_path / "dump.jsonl", [Group(prompt, samples, rewards)], [0.0])
    (line,) = (tmp_path / "dump.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.loads(line)
    found = record["prompt"], record["response"], record["failure"]
    assert found == ("a \ud83d", "yes \udc00 ✓", "ValueError: \ud83d")
    assert "✓" in line
