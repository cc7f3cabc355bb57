"""The screening of all methods: every preset and part is in a run of it, and every run can be."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from examples.countdown.make_data import solve_all, write_problem, write_rows
from examples.countdown.screen import demonstrated, overrides
from examples.countdown.verifier import countdown_reward
from megatron_stare.algorithms.needs import CUTS
from megatron_stare.algorithms.table import CURRICULA, FILTERS, LINKS, METHODS, TERMS
from megatron_stare.compare.plan import PlannedRun, check_settings, plan_runs
from megatron_stare.config.compare import CompareConfig
from megatron_stare.config_io import load_config
from tests.contract import ACTS

YAML = Path(__file__).parents[2] / "examples" / "countdown" / "screening.yaml"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, PlannedRun]:
    folder = tmp_path_factory.mktemp("screening")
    planned = plan_runs(load_config(CompareConfig, YAML, overrides(folder)))
    check_settings(planned)
    return {run.name: run for run in planned}


def test_every_preset_runs_thirty_steps_of_which_none_may_be_skipped(runs):
    assert {*METHODS} <= {*runs}
    for name in METHODS:
        assert runs[name].config.algorithm.method == name
    for run in runs.values():
        assert (run.config.train.steps, run.config.train.max_bad_updates) == (30, 1)


def test_every_part_is_in_a_run_but_those_that_no_run_can_have(runs):
    used = {name for run in runs.values() for name in run.config.algorithm.parts}
    of_segments = {n for n, kind in LINKS.items() if CUTS in kind(**ACTS.get(n, {})).needs}
    assert {*LINKS, *TERMS, *FILTERS, *CURRICULA} - used == of_segments


def test_demonstrations_solve_their_problems(tmp_path):
    problems = [*solve_all()][::400]
    texts = [write_problem(problem, Random(0)) for problem in problems]
    data = tmp_path / "data-seed7"
    data.mkdir()
    write_rows(data / "train.jsonl", ({"prompt": f"{t}:", "answer": t} for t in texts))
    demonstrated(tmp_path, 7)
    lines = (tmp_path / "screening" / "worked-seed7.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["answer"] for row in rows] == texts
    assert all(countdown_reward(row["worked"], row["answer"]) == 1 for row in rows)
