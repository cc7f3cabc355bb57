"""Problems of reasoning-gym's tasks: the same in every process, or one clear error."""

from __future__ import annotations

import ast

import pytest

from megatron_stare.config.data import DataConfig, SourceConfig
from megatron_stare.data import tasks
from megatron_stare.data.sources import open_prompt_sets
from megatron_stare.data.tables import Table
from megatron_stare.data.tasks import check_task, generate_problems, versions_of
from megatron_stare.errors import UserError
from tests.gym import needs_gym
from tests.models import make_tokenizer

SUMS = SourceConfig(task="chain_sum", size=20, params={"max_terms": 2, "min_digits": 4})


def texts_of(table: Table) -> list[dict[str, str]]:
    return [row.fields for row in table.rows]


@needs_gym
@pytest.mark.slow
def test_a_tasks_problems_are_prompts_with_what_its_scorer_needs():
    """Those of another seed are others: the package makes problem i of `seed + i`."""
    plain = SUMS.model_copy(update={"verifier": "exact", "seed": 2})
    config = DataConfig.model_validate({"sources": {"sums": SUMS, "plain": plain}})
    sets = open_prompt_sets(config, make_tokenizer(), key="data", seed=1)
    assert [len(prompts) for prompts in sets.values()] == [20, 20]
    name = str(sets["sums"].report)
    assert name.startswith("data.sources.sums: chain_sum of reasoning-gym ")
    assert name.endswith(": 20 of 20 rows used")
    scored, judged = (prompts.all() for prompts in sets.values())
    assert not {prompt.text for prompt in scored} & {prompt.text for prompt in judged}
    for prompt in scored:
        problem = ast.literal_eval(prompt.answer)
        assert problem["task"] == "chain_sum"
        assert problem["settings"]["max_terms"] == 2
        assert problem["entry"]["question"] == prompt.text
        assert str(eval(problem["entry"]["metadata"]["expression"])) == problem["entry"]["answer"]
    for prompt in judged:
        expression = prompt.text.partition(": ")[2].rstrip("= ")
        assert (prompt.source, str(eval(expression))) == ("plain", prompt.answer)


@needs_gym
@pytest.mark.slow
def test_problems_do_not_depend_on_the_order_of_sets_in_a_process(monkeypatch):
    """That task draws letters from a set, whose order is another in every process of Python."""
    source, found = SourceConfig(task="isomorphic_strings", size=30), []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        found.append(texts_of(generate_problems(source, "data.sources.a")))
    assert found[0] == found[1]


@needs_gym
@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "chain_sun"}, r"k\.task=chain_sun: no such task .*did you mean chain_sum\?"),
        (
            {"task": "chain_sum", "params": {"max_term": 2}},
            r"k\.params=\{'max_term': 2\}: max_term: unknown, expected some of min_terms, max_t",
        ),
        (
            {"task": "countdown", "params": {"min_target": 10**8, "max_target": 10**8}},
            r"k\.params=.*countdown fails at problem 1 \(ValueError: Failed to generate",
        ),
    ],
)
def test_what_a_task_refuses_is_one_clear_error(settings, message):
    with pytest.raises(UserError, match=message) as error:
        check_task(SourceConfig(**settings), "k")
    assert len(str(error.value).splitlines()) == 1


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(tasks, "PACKAGE", "no-such-gym")
    with pytest.raises(UserError, match=r"k\.task=chain_sum: the package no-such-gym is not inst"):
        generate_problems(SUMS, "k")


@needs_gym
def test_the_version_of_the_package_is_known_where_it_is_used():
    of_files = DataConfig.model_validate({"sources": {"a": {"path": "a.jsonl"}}})
    of_tasks = DataConfig.model_validate({"sources": {"a": SUMS}})
    assert versions_of(of_files, None) == {}
    assert versions_of(of_files, of_tasks).keys() == {"reasoning-gym"}
