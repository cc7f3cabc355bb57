"""Several sources of problems in a config: what each is, and what cannot be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.data import TASK_SCORER
from megatron_stare.config_io import describe, load_config, to_yaml
from megatron_stare.errors import UserError

TWO = "data: {sources: {sums: {path: s.jsonl, weight: 3}, chains: {task: chain_sum}}}\n"


@pytest.fixture
def load(tmp_path):
    def load(text: str = TWO, *overrides: str) -> TrainConfig:
        path = tmp_path / "run.yaml"
        path.write_text("model: {path: m}\n" + text)
        return load_config(TrainConfig, path, overrides)

    return load


def test_overrides_reach_a_source_by_its_name(load):
    config = load(
        TWO,
        "data.sources.sums.weight=2",
        "data.sources.sums.prompt_field=a: b #1",
        "data.sources.chains.params.max_terms=3",
        "data.sources.more.path=~/m.jsonl",
    )
    sources = config.data.sources
    assert list(sources) == ["sums", "chains", "more"]
    assert [source.weight for source in sources.values()] == [2, 1, 1]
    assert sources["sums"].prompt_field == "a: b #1", "a text needs no quotes"
    assert sources["chains"].params == {"max_terms": 3}
    assert sources["more"].path == Path("~/m.jsonl").expanduser()


def test_a_resolved_config_is_the_same_config(load, tmp_path):
    config = load()
    (tmp_path / "resolved.yaml").write_text(to_yaml(config))
    assert load_config(TrainConfig, tmp_path / "resolved.yaml") == config


def test_fields_are_those_of_the_data_but_where_a_source_has_its_own(load):
    config = load("data: {prompt_field: q, sources: {a: {path: a}, b: {path: b, prompt_field: x}}}")
    parts = config.data.parts
    assert [(part.path, part.prompt_field, part.answer_field) for part in parts.values()] == [
        (Path("a"), "q", "answer"),
        (Path("b"), "x", "answer"),
    ]
    assert load("data: {path: d}").data.parts == {"": load("data: {path: d}").data}


def test_a_task_is_judged_by_its_own_scorer_unless_told_otherwise(load):
    config = load(TWO, "data.sources.mine={task: chain_sum, verifier: exact}")
    sources, parts = config.data.sources, config.data.parts
    assert [source.verifier_or("math") for source in sources.values()] == [
        *("math", TASK_SCORER, "exact")
    ]
    assert [source.threshold for source in sources.values()] == [None, 1.0, None]
    assert [parts[name].answer_field for name in ("chains", "mine")] == ["entry", "answer"]
    assert load(TWO, "data.sources.chains.right_at=0.5").data.sources["chains"].threshold == 0.5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "data.path=d.jsonl",
            r"path=d\.jsonl with sources=\['sums', 'chains'\]: expected a path, or",
        ),
        ("data.sources={}", r"path=null with sources=\[\]: expected a path, or sources"),
        ("data.sources.sums.weight=0", r"data\.sources\.sums\.weight: .*greater than 0.*found 0"),
        ("data.sources.sums.weight=-1", r"data\.sources\.sums\.weight: .*greater than 0"),
        (
            "data.sources.sums.weihgt=1",
            r"sums\.weihgt: unknown key .*data\.sources\.sums\.weight\?",
        ),
        (
            "data.sources.sums.path=null",
            r"sums: expected a path, a task or .*, found neither",
        ),
        (
            "data.sources.sums.task=x",
            r"a task or .*, found path=s\.jsonl and task=x",
        ),
        ("data.sources.sums.size=5", r"size=5 with path=s\.jsonl: nothing would read it"),
        ("data.sources.chains.answer_field=a", r"answer_field=a with a task: nothing would read"),
        ("data.sources.chains.params.seed=3", r"params has seed=3: it stands beside params"),
        ("data.sources.chains.params.x=.nan", r"params: expected numbers, texts and lists"),
        ("data.sources.chains.size=0", r"chains\.size: .*greater than or equal to 1"),
        ("data.sources.chains.task=a b", r"chains\.task: expected the name of a task, found 'a b'"),
        (
            "data.sources.sums.environment={name: chess}",
            r"sums\.environment\.name: expected one of tries, textworld, openspiel, openenv, or a",
        ),
        (
            "data.sources.sums.environment={name: 'a:B', params: {x: .inf}}",
            r"sums\.environment: params: expected numbers, texts and lists",
        ),
        (
            "data.sources.sums={path: s, environment: {name: tries}, verifier: exact}",
            r"verifier=exact with an environment, which judges: nothing would read it",
        ),
        (
            "data.sources.sums={environment: {name: textworld}, params: {rooms: 2}}",
            r"params=.* with an environment: nothing would read it",
        ),
        (
            "data.sources.games={environment: {name: openspiel}}",
            r"data\.sources\.games\.environment with data\.template='{prompt}'.*expected 'chat'",
        ),
        (
            "data={template: chat, sources: {g: {environment: {name: textworld}}}} "
            "tools={names: [calculator]} workflow={format: hermes}",
            r"workflow\.format='hermes' with data\.sources\.g\.environment: a run calls tools, or",
        ),
        (
            "data={template: chat, sources: {g: {environment: {name: tries}}}} "
            "eval={data: {template: chat, sources: {g: {environment: {name: textworld}}}}}",
            r"data\.sources\.g\.environment is name='tries'.*is name='textworld'",
        ),
        (
            "workflow.agent.function=solve",
            r"function: expected a function of your own as package\.module:name, found 'solve'",
        ),
        (
            "data={template: chat, sources: {g: {path: s}}} workflow={agent: {function: 'a:b'}}",
            r"agent\.function=a:b with data\.template='chat': an agent is given the problem as it",
        ),
        (
            "data={sources: {g: {environment: {name: tries}}}} workflow={agent: {function: 'a:b'}}",
            r"agent\.function=a:b with data\.sources\.g\.environment: an agent plays by itself",
        ),
        ("data.sources.sums.right_at=0", r"sums\.right_at: .*greater than 0"),
        ("data.sources.sums.verifier=maths", r"sums\.verifier: expected one of math, exact"),
        (
            "data.sources.sums.answer_field=prompt",
            r"sources\.sums\.answer_field='prompt' is prompt",
        ),
        ("data.sources={a b: {path: x}}", r"expected a name of letters, digits, `_` and `-`"),
        ("data.sources=[{path: x}]", r"data\.sources: expected a mapping, found"),
        (
            "eval.data={sources: {sums: {path: s, verifier: exact}}}",
            r"data\.sources\.sums\.verifier is math, eval\.data\.sources\.sums\.verifier is exact",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_error(load, override, message):
    with pytest.raises(UserError, match=message) as error:
        load(TWO, *re.split(r"(?<=}) (?=\w+=)", override))
    assert len(str(error.value).splitlines()) == 1


def test_demonstrations_of_one_source_are_enough(load):
    hpt = "algorithm.method=hpt"
    with pytest.raises(UserError, match="nothing to fall back to"):
        load(TWO, hpt)
    assert load(TWO, hpt, "data.sources.sums.demonstration_field=worked").algorithm


def test_the_keys_of_a_source_are_documented():
    texts = {key: text for key, _, _, text in describe(TrainConfig)}
    for key in ("path", "task", "weight", "verifier", "right_at", "params"):
        assert texts[f"data.sources.NAME.{key}"]
        assert texts[f"eval.data.sources.NAME.{key}"]
