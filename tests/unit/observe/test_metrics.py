from pathlib import Path

import pytest

from megatron_stare.algorithms.table import PARTS
from megatron_stare.observe.metrics import (
    METRICS,
    find_metric,
    source_of,
    targets_of,
)
from megatron_stare.observe.metrics_page import GROUPS, glossary
from megatron_stare.observe.plots import FIGURES
from tests.unit.observe.synthetic import eval_metrics, train_metrics

UNITS = {"nats", "tokens", "seconds", "steps", "share", "count", "tokens/s", "1"}


def test_every_metric_has_a_known_unit_a_sentence_and_a_described_group():
    for name, metric in METRICS.items():
        assert metric.unit in UNITS, name
        assert metric.description.endswith("."), name
        assert name.partition("/")[0] in GROUPS, name


def test_names_carry_their_unit_where_they_have_a_suffix():
    for name, metric in METRICS.items():
        assert name.endswith("_s") == (metric.unit in ("seconds", "tokens/s")), name
        assert not name.endswith("_share") or metric.unit == "share", name


@pytest.mark.parametrize("name", ["eval/pass_at_1", "eval/pass_at_16"])
def test_pass_at_any_k_is_one_entry(name):
    assert find_metric(name) is METRICS["eval/pass_at_{k}"]


@pytest.mark.parametrize(
    ("name", "entry", "source"),
    [
        ("source/gsm8k/accuracy", "source/{name}/accuracy", "gsm8k"),
        ("source/a-b_2/drawn", "source/{name}/drawn", "a-b_2"),
        ("eval/source/x/avg_at_k", "eval/source/{name}/avg_at_k", "x"),
        ("eval/source/x/pass_at_16", "eval/source/{name}/pass_at_{k}", "x"),
        ("eval/avg_at_k", "eval/avg_at_k", None),
        ("reward/accuracy", "reward/accuracy", None),
    ],
)
def test_metrics_of_any_source_are_one_entry(name, entry, source):
    assert find_metric(name) is METRICS[entry]
    assert source_of(name) == source


@pytest.mark.parametrize("name", ["own/weight_mean", "own/mine/share", "own/W2"])
def test_parts_of_ones_own_report_under_names_of_their_own(name):
    assert find_metric(name) is METRICS["own/{name}"]


@pytest.mark.parametrize(
    "name",
    [
        "reward/mena",
        "own/",
        "own/a b",
        "own",
        "mine/x",
        "eval/pass_at_0",
        "eval/pass_at_",
        "eval/pass_at_4x",
        "source/x/pass_at_4",
        "source/x/mean",
        "source/a b/accuracy",
        "source//accuracy",
        "eval/source/x/pass_at_0",
        "step",
    ],
)
def test_an_unknown_name_is_a_bug(name):
    with pytest.raises(KeyError, match="not in the glossary"):
        find_metric(name)


def test_what_parts_of_methods_log_is_in_the_glossary_and_drawn():
    logged = {name: metric for kind in PARTS.values() for name, metric in kind.metrics.items()}
    drawn = {panel.metric: panel for lines in FIGURES.values() for panel in lines.panels}

    assert logged
    for name, metric in logged.items():
        assert find_metric(name) is metric
        assert (name in drawn) == (metric.title != "")
        assert {metric.target_of, metric.switch_of} <= {"", *METRICS}


def test_a_target_is_found_by_what_it_is_a_target_of():
    assert targets_of("entropy/mean") == ["stare/target"]
    assert targets_of("reward/mean") == []


def test_synthetic_runs_log_real_names():
    import numpy as np

    noise = np.random.default_rng(1)
    for name in train_metrics(0.5, noise, stare=True, target=0.5) | eval_metrics(
        0.5, noise, stare=True
    ):
        find_metric(name)


def test_the_documentation_page_is_up_to_date():
    page = Path(__file__).parents[3] / "docs" / "metrics.md"
    assert page.read_text() == glossary() + "\n", (
        "print it again: python -m megatron_stare.observe.metrics_page > docs/metrics.md"
    )
