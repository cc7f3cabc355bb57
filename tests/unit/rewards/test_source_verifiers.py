"""Verifiers of several sources: each judges its own, with a score from which it is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from megatron_stare.config.algorithm import RewardConfig
from megatron_stare.config.data import DataConfig
from megatron_stare.errors import UserError
from megatron_stare.rewards.answers import tagged_answer
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.types import Sample
from tests.unit.rewards.test_scorer import VERIFIERS, make_samples

EXACT = RewardConfig(kind="exact", workers=1)


def data_of(**sources) -> dict[str, DataConfig]:
    files = {name: {"path": "p.jsonl", **settings} for name, settings in sources.items()}
    return {"data": DataConfig.model_validate({"sources": files})}


def samples_of(*rows: Sequence[str]) -> list[Sample]:
    """Of (source, response, answer)."""
    samples = make_samples([(response, answer) for _, response, answer in rows])
    return [
        replace(sample, prompt=replace(sample.prompt, source=source))
        for sample, (source, *_) in zip(samples, rows, strict=True)
    ]


def test_each_source_is_judged_by_its_own_in_the_order_of_the_samples():
    number = f"{VERIFIERS}:number"
    data = data_of(
        words={}, shares={"verifier": number}, enough={"verifier": number, "right_at": 0.5}
    )
    rows = [("shares", "0.25", ""), ("words", "a", "a"), ("enough", "0.25", "")]
    rows += [("words", "a", "b"), ("enough", "0.5", ""), ("shares", "3", ""), ("enough", "-1", "")]
    with Scorer(EXACT, data, max_response_tokens=10) as scorer:
        rewards = scorer.score(samples_of(*rows))
    assert [reward.value for reward in rewards] == [0.25, 1, 0.25, 0, 0.5, 3, -1]
    assert [reward.correct for reward in rewards] == [0.25, 1, 0, 0, 1, 1, 0]


def test_a_failure_of_one_is_no_verdict_of_another():
    data = data_of(good={}, bad={"verifier": f"{VERIFIERS}:act"})
    with Scorer(EXACT, data, max_response_tokens=10) as scorer:
        good, bad = scorer.score(samples_of(("good", "raise", "raise"), ("bad", "raise", "raise")))
    assert (good.value, good.failure) == (1, None)
    assert (bad.value, bad.failure) == (0, "ValueError: no such thing")


def test_one_that_cannot_be_used_is_named_by_its_key():
    with pytest.raises(UserError, match=r"^data\.sources\.b\.verifier: cannot import no_such:f"):
        Scorer(EXACT, data_of(a={}, b={"verifier": "no_such:f"}), max_response_tokens=10)


def test_the_code_of_each_counts():
    """So that a changed verifier of one source is another lineage."""
    codes = []
    for verifier in ("exact", f"{VERIFIERS}:number"):
        with Scorer(
            EXACT, data_of(a={}, b={"verifier": verifier}), max_response_tokens=9
        ) as scorer:
            codes.append(scorer.code)
    assert codes[1].startswith(f"{codes[0]} ")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so <answer> 5 </answer>.", "5"),
        ("<answer>4</answer> or <answer>5\n6</answer>", "5\n6"),
        ("<think><answer>4</answer></think> <answer>5</answer>", "5"),
        ("<think><answer>4</answer></think> it is 5", None),
        ("<think>so <answer>4</answer></think>", "4"),
        ("<answer>5", None),
        ("5", None),
    ],
)
def test_an_answer_in_tags_is_the_last_of_what_is_said(text, answer):
    assert tagged_answer(text) == answer
