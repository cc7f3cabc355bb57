"""Configs from before methods were chains are read as what they meant."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from megatron_stare.config.commands import TrainConfig

REQUIRED = {"model": {"path": "model"}, "data": {"path": "data.jsonl"}}


def config_of(**sections) -> TrainConfig:
    return TrainConfig.model_validate({**REQUIRED, **sections})


@pytest.mark.parametrize(
    ("old", "today"),
    [
        ({"stare": {}}, {}),
        ({"stare": {"enabled": False, "w": 1.2}}, {"method": "grpo"}),
        ({"stare": {"w": 1.2, "anneal": {"to": 0.2, "to_step": 9}}},) * 2,
        ({"algorithm": {"advantage": "rloo"}}, {"links": ["rloo", "stare"]}),
        (
            {"stare": {"enabled": False}, "algorithm": {"advantage": "dr_grpo", "kl": "none"}},
            {"method": "grpo", "links": ["dr_grpo"]},
        ),
        (
            {"algorithm": {"clip_low": 0.1, "clip_high": 0.3, "dual_clip": 3.0}},
            {"clip": {"low": 0.1, "high": 0.3, "dual": 3.0}},
        ),
        (
            {"algorithm": {"kl": "k2", "kl_coef": 0.1, "entropy_coef": 0.2}},
            {"terms": [{"kl": {"estimator": "k2", "coef": 0.1}}, {"entropy": {"coef": 0.2}}]},
        ),
        (
            {"algorithm": {"correction": {"kind": "icepop", "level": "token", "low": None}}},
            {"links": ["grpo", "stare", "icepop"]},
        ),
        ({"algorithm": {"correction": {"kind": "none"}}}, {"correct_stale": False}),
        ({"algorithm": {"correction": {"kind": "auto", "level": "token", "low": None}}}, {}),
        (
            {"stare": {"enabled": False}, "algorithm": {"method": "stare", "stare": {"w": 1.3}}},
            {"method": "grpo"},
        ),
    ],
)
def test_older_keys_mean_what_they_meant(old, today):
    if old is today:
        today = {"stare": old["stare"]}
    assert config_of(**old).algorithm == config_of(algorithm=today).algorithm


def test_a_link_that_is_called_like_the_method_stays():
    """A class may be in a module of any name."""
    own = "megatron_stare.algorithms.links.quadrants:Quadrants"
    algorithm = {"links": ["grpo", {"stare": {"w": 1.2}}, own]}
    config = config_of(stare={"enabled": False}, algorithm=algorithm)
    assert list(config.algorithm.links) == ["grpo", own]


@pytest.mark.parametrize(
    ("old", "message"),
    [
        ({"stare": {"enabled": 1}}, r"stare.enabled\n.*expected true or false, found 1"),
        ({"stare": {"w": 0.5}}, r"algorithm.stare.w\n.*greater than or equal to 1"),
        ({"stare": {"w_": 1.5}}, r"algorithm.stare.w_\n.*Extra inputs"),
        ({"algorithm": {"kl": "k3"}}, r"algorithm.kl='k3' with kl_coef=0.0: set both or neither"),
        ({"algorithm": {"kl_coef": 0.1}}, r"kl='none' with kl_coef=0.1: set both or neither"),
        ({"algorithm": {"kl": "k4", "kl_coef": 0.1}}, r"algorithm.kl.estimator\n.*'k1', 'k2'"),
        ({"algorithm": {"correction": {"high": 3.0}}}, r"kind='auto' with .*set its kind"),
        ({"algorithm": {"correction": {"kind": "cut"}}}, r"unknown name 'cut': expected one of"),
        ({"algorithm": {"correction": 3}}, r"algorithm.correction: expected a section of keys"),
    ],
)
def test_older_keys_are_checked(old, message):
    with pytest.raises(ValidationError, match=message):
        config_of(**old)
