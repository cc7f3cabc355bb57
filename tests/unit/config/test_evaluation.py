"""Sets of held-out problems: what they take over, and what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.evaluation import EvalConfig, EvalSection
from megatron_stare.config_io import load_config, to_yaml
from megatron_stare.errors import UserError

REPO = Path(__file__).parents[3]
SETS = (
    *("eval.temperature=0.6", "eval.top_k=20", "eval.samples_per_prompt=32"),
    *("eval.sets.aime24.data.path=a.jsonl", "eval.sets.math500.data.path=m.jsonl"),
    *("eval.sets.math500.samples_per_prompt=4", "eval.sets.math500.top_k=0"),
)


def load(*overrides: str, kind=EvalConfig):
    needed = ("data.path=d.jsonl",) if kind is TrainConfig else ()
    return load_config(kind, None, ["model.path=model", *needed, *overrides])


def test_a_set_says_what_differs_from_the_section():
    parts = load(*SETS).eval.parts
    assert [*parts] == ["aime24", "math500"]
    aime, math = parts.values()
    assert (aime.temperature, aime.top_k, aime.samples_per_prompt) == (0.6, 20, 32)
    assert (math.temperature, math.top_k, math.samples_per_prompt) == (0.6, 0, 4)
    assert math.data.path == Path("m.jsonl")


def test_a_single_set_is_the_section_itself():
    section = load("eval.data.path=a.jsonl", "eval.samples_per_prompt=8").eval
    [(name, one)] = section.parts.items()
    assert (name, one.samples_per_prompt, one.data) == ("", 8, section.data)
    assert EvalSection().parts == {}


def test_overrides_of_the_section_reach_the_sets_of_a_resolved_config(tmp_path):
    """What a set takes over is not written into it."""
    (tmp_path / "resolved.yaml").write_text(to_yaml(load(*SETS)))
    again = load_config(EvalConfig, tmp_path / "resolved.yaml", ["eval.samples_per_prompt=2"])
    assert [one.samples_per_prompt for one in again.eval.parts.values()] == [2, 4]


def test_a_run_knows_its_problems_by_the_keys_that_name_them():
    config = load(*SETS, kind=TrainConfig)
    keys = ["data", "eval.sets.aime24.data", "eval.sets.math500.data"]
    assert [*config.data_by_key] == keys
    assert config.is_evaluated


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("eval.data.path=a",), r"^eval: data with sets \[aime24, math500\]: expected the one or"),
        (("eval.sets.math500.top_p=2",), r"^eval\.sets\.math500\.top_p: .*less than or equal to 1"),
        (("eval.sets.math500.tempratur=1",), r"did you mean eval\.sets\.math500\.temperature\?"),
        (("eval.sets.a/b.data.path=a",), r"a name of letters, digits"),
        (("eval.max_batch_sequences=4",), r"did you mean rollout\.max_batch_sequences\?"),
        (
            (
                "eval.sets.aime24.data={sources: {x: {path: p, verifier: exact}}}",
                "eval.sets.math500.data={sources: {x: {path: p}}}",
            ),
            r"eval\.sets\.aime24\.data\.sources\.x\.verifier is exact, "
            r"eval\.sets\.math500\.data\.sources\.x\.verifier is math",
        ),
    ],
)
def test_what_cannot_be_is_one_line(overrides, said):
    with pytest.raises(UserError, match=said) as found:
        load(*SETS, *overrides)
    assert "\n" not in str(found.value)


def test_evaluating_nothing_now_and_then_is_refused():
    with pytest.raises(UserError, match=r"^eval: every=3 without data or sets: nothing would be"):
        load("eval.every=3", kind=TrainConfig)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            (),
            r"^eval\.asynchronous=true with rollout\.engine=embedded: nothing can be asked beside",
        ),
        (("rollout.engine=sglang", "rollout.oversampling=2"), r"rollout\.oversampling=2\.0"),
        (("rollout.engine=sglang", "rollout.colocated=true"), r"rollout\.colocated=True"),
        (
            ("rollout.engine=sglang", "workflow.agent.function=a:b"),
            r"workflow\.agent\.function=a:b",
        ),
    ],
)
def test_evaluating_beside_a_batch_is_refused_where_it_cannot_be(overrides, said):
    servers = ("rollout.servers.registry=runs/servers",) if overrides else ()
    with pytest.raises(UserError, match=said):
        load(*SETS, "eval.asynchronous=true", *servers, *overrides, kind=TrainConfig)


def test_servers_that_are_asked_single_turns_can_be_asked_beside_a_batch():
    servers = ("rollout.engine=sglang", "rollout.servers.registry=runs/servers")
    assert load(*SETS, "eval.asynchronous=true", *servers, kind=TrainConfig).eval.asynchronous


def test_the_recipe_asks_aime_32_times():
    config = load_config(EvalConfig, REPO / "examples/aime/eval.yaml")
    asked = {
        name: (one.samples_per_prompt, one.data.path) for name, one in config.eval.parts.items()
    }
    assert asked == {f"aime{y}": (32, Path(f"data/aime{y}.jsonl")) for y in (24, 25)}
    assert config.reward.kind == "math"
