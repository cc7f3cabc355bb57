"""Chains in the words of papers, for who writes one down from its page."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from megatron_stare.algorithms.config import AlgorithmConfig
from megatron_stare.algorithms.offline import run_links
from megatron_stare.algorithms.paper_names import PAPER_NAMES
from megatron_stare.algorithms.table import PARTS
from tests.contract import ACTS


@pytest.mark.parametrize("part", PAPER_NAMES)
def test_every_name_stands_for_settings_that_the_part_has(part):
    fields = PARTS[part].model_fields
    for name, own in PAPER_NAMES[part].items():
        assert {*own.split()} <= {*fields}
        assert name not in fields


@pytest.mark.parametrize(
    ("part", "in_papers", "in_ours"),
    [
        ("steer", {"w_min": 0.7, "w_max": 1.3}, {"low": 0.7, "high": 1.3}),
        ("qae", {"K": 0.6}, {"quantile": 0.6}),
        ("clip_cov", {"ratio": 0.5, "lb": 0, "ub": 9}, {"share": 0.5, "low": 0, "high": 9}),
        (
            "stare",
            {"H_tgt": 9, "W": 1.5, "P": 0.5},
            {"target_entropy": 9, "w": 1.5, "top_share": 0.5},
        ),
        ("tis", {"C": 1.5}, {"high": 1.5}),
        ("gmpo", {"clip": 0.3}, {"low": 0.3, "high": 0.3}),
        ("aspo", {"eps": 0.1, "c": 5}, {"low": 0.1, "high": 0.1, "dual": 5}),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_both_words_are_one_method(part, in_papers, in_ours, beside):
    def method(settings: dict[str, float]) -> AlgorithmConfig:
        key = "policy" if part in ("gmpo", "aspo") else "links"
        chain = [part] if beside else [{part: settings}]
        given = {key: chain, **({part: settings} if beside else {})}
        return AlgorithmConfig.model_validate({"method": "grpo", **given})

    assert method(in_papers) == method(in_ours)
    assert method(in_ours).parts[part] != PARTS[part](**ACTS.get(part, {}))


def test_they_run_on_lists():
    samples = [{"logprobs": [-0.1, -2.0], "entropies": [0.5, 1.0], "advantages": 1.0}]
    credit, _ = run_links([{"steer": {"shape": "linear", "w_min": 0.8, "w_max": 1.2}}], samples)
    assert sorted(credit["weights"][0]) == pytest.approx([0.8, 1.2])


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            {"links": [{"qae": {"K": 0.6, "quantile": 0.5}}]},
            "qae: quantile is 0.6, and as quantile 0.5",
        ),
        ({"links": [{"qae": {"k": 0.6}}]}, "extra"),
        (
            {"method": "ngrpo", "clip": {"eps_low": 0.1, "low": 0.2}},
            "clip: low is 0.1, and as low 0.2",
        ),
        ({"method": "a3po"}, "a3po is no method of its own, expected it in links"),
        ({"method": "tangent"}, "tangent is no method of its own, expected it in policy"),
        ({"method": "mixed"}, "mixed is no method of its own, expected it in filters"),
    ],
)
def test_what_is_said_twice_or_in_no_words_is_refused(section, said):
    with pytest.raises(ValidationError, match=said):
        AlgorithmConfig.model_validate(section)


def test_a_preset_gives_way_to_a_papers_words():
    assert AlgorithmConfig(method="ngrpo", clip={"eps_low": 0.1}).policy["clip"].low == 0.1
