"""Countdown's plan: which setting stays, what costs as much, and what the differences are."""

from __future__ import annotations

import numpy as np
import pytest

from examples.countdown import trial
from examples.countdown.choose import ROWS, Candidate, better
from examples.countdown.trial import differences, first_as_dear, markdown, variants, warmed_up
from megatron_stare.algorithms.links.stare import Stare
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config_io import load_config
from megatron_stare.errors import UserError
from megatron_stare.observe.history import Series
from tests.unit.test_countdown import CONFIGS

FIXED, FALLING, DEEP = Candidate(), Candidate(0.5, 0.2), Candidate(0.5, 0.1)


class TestChoice:
    def test_the_largest_mean_stays(self):
        scores = {FIXED: [0.3, 0.31, 0.32], FALLING: [0.36, 0.37, 0.38], DEEP: [0.4, 0.41, 0.42]}
        assert better(scores) == DEEP

    def test_of_two_within_an_error_the_first_stays(self):
        assert better({FIXED: [0.30, 0.40, 0.35], FALLING: [0.40, 0.35, 0.36]}) == FIXED
        assert better({FALLING: [0.40, 0.35, 0.36], FIXED: [0.30, 0.40, 0.35]}) == FALLING

    def test_a_row_changes_nothing_but_its_own(self):
        best = Candidate(0.4, 0.2, (1 / 2, 1), 10, "C2")
        for changes in ROWS.values():
            for change in changes:
                others = {"target", "end", "falls", "w_max", "variant"} - change.keys()
                candidate = Candidate(**{**best_of(best), **change})
                assert all(getattr(candidate, name) == getattr(best, name) for name in others)

    @pytest.mark.parametrize("change", [change for row in ROWS.values() for change in row])
    def test_every_candidate_is_a_config(self, change):
        settings = Candidate(**change).settings()["algorithm"]["stare"]
        config = load_config(TrainConfig, CONFIGS / "train.yaml", [f"algorithm.stare={settings}"])
        stare = config.algorithm.links["stare"]
        assert isinstance(stare, Stare)
        assert stare.target_at(0) == pytest.approx(change.get("target", 0.25))
        assert stare.target_at(240) == pytest.approx(change.get("end", 0.25))


def best_of(candidate: Candidate) -> dict[str, object]:
    return {name: getattr(candidate, name) for name in Candidate.__dataclass_fields__}


class TestTrial:
    def test_dapo_is_taken_where_it_has_first_cost_as_much(self):
        history = {"rollout/drawn": Series(np.arange(1, 41), np.full(40, 32.0))}
        saved = [10, 20, 30, 40]
        for cost, step in ((1, 10), (320, 10), (321, 20), (1280, 40), (10**6, 40)):
            assert first_as_dear(history, "rollout/drawn", cost, saved) == step

    def test_runs_differ_in_method_and_steps(self):
        best = best_of(FALLING)
        arms = variants({"best": best, "steps": {"drawn": 300, "processor_s": 250}})
        assert arms["stare_drawn"]["train"] == {"steps": 300}
        assert arms["stare_drawn"]["algorithm"]["stare"]["anneal"]["to_step"] == 300
        assert arms["stare_processor_s"]["train"] == {"steps": 250}
        assert arms["dapo"]["train"] == {"steps": 360, "save_every": 10}

    def test_a_seed_that_does_not_get_through_is_replaced_and_named(
        self, tmp_path, monkeypatch, capsys
    ):
        def warm_up(seed, runs):
            if seed in (102, 104):
                raise UserError(f"sft-seed{seed}: the warm-up failed")

        monkeypatch.setattr(trial, "warm_up", warm_up)
        assert warmed_up([101, 102, 103], tmp_path) == [101, 103, 105]
        assert "seed 104 takes the place of 102" in capsys.readouterr().out

    def test_differences_are_paired_by_seed(self):
        found = {101: seed(0.40, 0.30), 102: seed(0.45, 0.33), 103: seed(0.50, 0.42)}
        difference = differences(found, "drawn")["pass@1"]
        assert difference is not None
        assert difference.half_width is not None
        assert difference.mean == pytest.approx(0.1)
        # t of 2 degrees of freedom is 4.3027; the differences' std is 0.02.
        assert difference.half_width == pytest.approx(4.3027 * 0.02 / 3**0.5, rel=1e-4)
        assert "| pass@1 | +10.0 ± 5.0 |" in markdown(found, ["drawn"])


def seed(stare: float, dapo: float) -> dict[str, object]:
    return {"drawn": {"dapo_step": 200, "stare": measures(stare), "dapo": measures(dapo)}}


def measures(rate: float) -> dict[str, object]:
    rates = {1: rate, 16: rate}
    return {"pass_at": rates, "deployed": rate, "product_pass_at": rates, "lost_problems": rate}
