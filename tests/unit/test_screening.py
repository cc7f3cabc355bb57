"""The screening of methods: every preset that can be run on its task is in a run of it."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from examples.countdown.make_data import solve_all, write_problem
from examples.countdown.screen import demonstrated, overrides, presets
from examples.countdown.verifier import countdown_reward
from examples.tiny_addition.make_data import write_rows
from megatron_stare.algorithms.table import METHODS
from megatron_stare.compare.plan import PlannedRun, check_settings, plan_runs
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.compare import CompareConfig
from megatron_stare.config_io import load_config
from megatron_stare.errors import UserError

YAML = Path(__file__).parents[2] / "examples" / "countdown" / "screening.yaml"
VARIANTS = ("ace", "a3po", "d3s", "veto", "off_policy_mask", "positive_nll", "vade", "band")
"""Methods of one part, by its name."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, PlannedRun]:
    folder = tmp_path_factory.mktemp("screening")
    planned = plan_runs(load_config(CompareConfig, YAML, overrides(folder)))
    check_settings(planned)
    return {run.name: run for run in planned}


def test_every_preset_for_single_turns_runs_thirty_steps_of_which_none_may_be_skipped(runs):
    assert {*presets()} <= {*runs}
    for name in presets():
        assert runs[name].config.algorithm.method == name
    for run in runs.values():
        assert (run.config.train.steps, run.config.train.max_bad_updates) == (30, 1)


@pytest.mark.parametrize("name", sorted({*METHODS} - {*presets()}))
def test_a_preset_that_is_left_out_could_not_be_run(name):
    with pytest.raises(UserError, match=r"algorithm\.\w+ reads (turns|rewards of turns|roles)"):
        load_config(TrainConfig, YAML.with_name("train.yaml"), [f"algorithm={{method: {name}}}"])


def test_parts_that_are_in_no_preset_have_runs_of_their_own(runs):
    of_presets = {part for name in presets() for part in METHODS[name].parts}
    others = {n: {*run.config.algorithm.parts} - of_presets for n, run in runs.items()}
    assert {name: {name} for name in VARIANTS} == {n: others[n] & {n} for n in VARIANTS}
    assert {"replay", "reflection", "r3"} <= others["r3"]


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
