"""avg@k, pass@k and maj@k."""

from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from math import comb, sqrt
from statistics import stdev

import pytest

from megatron_stare.config.evaluation import EvalSection
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.observe.metrics import find_metric
from megatron_stare.rollout.evaluate import Evaluation, evaluate, metrics_of
from megatron_stare.rollout.measures import majority_verdict, pass_at_k, standard_error
from tests.models import VOCAB_SIZE
from tests.unit.rollout.problems import TOKENIZER, make_prompt, write_jsonl


@pytest.mark.parametrize("num_samples", [1, 4, 7])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(num_samples):
    for num_correct in range(num_samples + 1):
        verdicts = [i < num_correct for i in range(num_samples)]
        for k in range(1, num_samples + 1):
            subsets = list(combinations(verdicts, k))
            share = sum(map(any, subsets)) / len(subsets)
            assert pass_at_k(num_samples, num_correct, k) == pytest.approx(share, abs=1e-15)


def test_pass_at_k_is_exact_for_many_samples():
    expected = 1 - Fraction(comb(10_000 - 3, 1000), comb(10_000, 1000))
    assert pass_at_k(10_000, 3, 1000) == pytest.approx(float(expected), rel=1e-12)


def test_the_standard_error_is_over_problems():
    """A problem's samples are no new problems: four of each say no more of the rest than two."""
    of_two = [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    means = [0.5, 1.0, 0.0]
    assert standard_error(of_two) == pytest.approx(stdev(means) / sqrt(3))
    assert standard_error([found * 2 for found in of_two]) == standard_error(of_two)
    # Of unequal numbers: mean 0.6 of five, sums 2 and 1, residuals 2 - 1.2 and 1 - 1.8.
    assert standard_error([[1.0, 1.0], [1.0, 0.0, 0.0], []]) == pytest.approx(sqrt(2 * 1.28) / 5)
    assert standard_error([[1.0, 0.0]]) is None
    assert standard_error([[], [1.0, 0.0]]) is None


def make_engine(folder, responses: dict[str, list[str]]) -> ReplayEngine:
    rows = [{"prompt": p, "response": r} for p, texts in responses.items() for r in texts]
    return ReplayEngine(
        write_jsonl(folder / "recorded.jsonl", rows), TOKENIZER, vocab_size=VOCAB_SIZE
    )


def test_metrics_of_an_engine_on_prompts(tmp_path, scorer):
    engine = make_engine(tmp_path, {"p": ["yes", "no", "no"], "q": ["no"] * 3, "r": ["yes"] * 3})
    arrived = []
    evaluation = evaluate(
        engine,
        [make_prompt("p"), make_prompt("q"), make_prompt("r")],
        scorer,
        EvalSection(samples_per_prompt=3, max_prompts=2, max_response_tokens=10),
        seed=1,
        on_progress=arrived.append,
    )
    assert evaluation.metrics == pytest.approx(
        {
            "eval/problems": 2,
            "eval/avg_at_k": 1 / 6,
            "eval/avg_at_k_se": 1 / 6,  # Of means 1/3 and 0: their deviation 0.2357 over sqrt(2).
            "eval/pass_at_1": 1 / 6,
            "eval/pass_at_2": (2 / 3 + 0) / 2,
            "eval/pass_at_3": 1 / 2,
            "eval/maj_at_k": 0.0,
            "eval/response_tokens_mean": (4 + 5 * 3) / 6,
            "eval/truncated_share": 0.0,
        }
    )
    assert [group.prompt.uid for group in evaluation.groups] == ["p", "q"]
    assert sum(arrived) == 6


def test_every_source_has_metrics_of_its_own(tmp_path, scorer):
    engine = make_engine(tmp_path, {"p": ["yes", "no"], "q": ["no"] * 2, "r": ["yes"] * 2})
    sources = {"p": "one", "q": "other", "r": "one"}
    prompts = [replace(make_prompt(text), source=source) for text, source in sources.items()]
    config = EvalSection(samples_per_prompt=2, max_response_tokens=10)
    metrics = evaluate(engine, prompts, scorer, config, seed=1).metrics
    assert all(find_metric(name) for name in metrics)
    found = {name: value for name, value in metrics.items() if "avg_at_k" in name or "pass" in name}
    found = {name: value for name, value in found.items() if not name.endswith("_se")}
    assert found == {
        "eval/avg_at_k": 0.5,
        "eval/pass_at_1": 0.5,
        "eval/pass_at_2": pytest.approx(2 / 3),
        "eval/source/one/avg_at_k": 0.75,
        "eval/source/one/pass_at_1": 0.75,
        "eval/source/one/pass_at_2": 1.0,
        "eval/source/other/avg_at_k": 0.0,
        "eval/source/other/pass_at_1": 0.0,
        "eval/source/other/pass_at_2": 0.0,
    }


@pytest.mark.parametrize(("num_samples", "ks"), [(1, {1}), (4, {1, 2, 4}), (6, {1, 2, 4, 6})])
def test_budgets_double_up_to_the_number_of_samples(tmp_path, scorer, num_samples, ks):
    engine = make_engine(tmp_path, {"p": ["yes"] * num_samples})
    config = EvalSection(samples_per_prompt=num_samples)
    metrics = evaluate(engine, [make_prompt("p")], scorer, config, seed=1).metrics
    names = {name for name in metrics if "pass" in name}
    assert names == {f"eval/pass_at_{k}" for k in ks}
    assert {metrics[name] for name in names} == {1.0}


def test_the_majority_is_asked_by_final_answer_and_ties_are_shared(tmp_path, scorer):
    texts = {"p": ["yes", "yes", "no"], "q": ["no", "yes", "no"], "r": ["no", "yes", "maybe"]}
    engine = make_engine(tmp_path, texts)
    config = EvalSection(samples_per_prompt=3, max_response_tokens=10)
    evaluation = evaluate(engine, [make_prompt(text) for text in texts], scorer, config, seed=1)
    assert [majority_verdict(group) for group in evaluation.groups] == [1.0, 0.0, 1 / 3]
    assert evaluation.metrics["eval/maj_at_k"] == pytest.approx(4 / 9)
    (unanswered,) = evaluation.groups[:1]
    silent = tuple(replace(sample, text=" ") for sample in unanswered.samples)
    assert majority_verdict(replace(unanswered, samples=silent)) == 0.0


def test_sets_have_metrics_of_their_own_and_each_counts_alike_in_the_mean(tmp_path, scorer):
    engine = make_engine(tmp_path, {"p": ["yes", "no"], "q": ["no"] * 2, "r": ["yes"] * 2})
    sets = {"easy": ["r"], "hard": ["p", "q"]}
    found = {}
    for name, texts in sets.items():
        config = EvalSection(samples_per_prompt=2, max_response_tokens=10)
        prompts = [make_prompt(text) for text in texts]
        found[name] = evaluate(engine, prompts, scorer, config, seed=1, name=name)
    metrics = metrics_of(found)
    assert all(find_metric(name) for name in metrics)
    assert metrics["eval/set/easy/avg_at_k"] == 1.0
    assert metrics["eval/set/hard/avg_at_k"] == 0.25
    assert metrics["eval/set/hard/avg_at_k_se"] == pytest.approx(0.25)
    assert metrics["eval/avg_at_k"] == 0.625
    assert "eval/avg_at_k_se" not in metrics, "that of a single problem is not known"
    assert "eval/problems" not in metrics
    assert [group.prompt.uid for group in found["hard"].groups] == ["p", "q"]


def test_the_error_of_a_mean_over_sets_is_that_of_independent_numbers():
    of_set = {"avg_at_k": 0.5, "avg_at_k_se": 0.3}, {"avg_at_k": 0.1, "avg_at_k_se": 0.4}
    found = {
        name: Evaluation({f"eval/set/{name}/{key}": value for key, value in one.items()}, [])
        for name, one in zip("ab", of_set, strict=True)
    }
    assert metrics_of(found)["eval/avg_at_k_se"] == pytest.approx(0.25)
