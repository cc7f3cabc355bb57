"""Countdown's plan: which setting stays, what costs as much, and what the differences are."""

from __future__ import annotations

import numpy as np
import pytest

from examples.countdown import choose, results
from examples.countdown.choose import ROWS, Candidate, better
from examples.countdown.results import Results
from examples.countdown.trial import differences, first_as_dear, markdown, measured, variants
from examples.countdown.warmup import FailedWarmUp
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


class TestDev:
    """Of a choice that goes on from what another machine has measured."""

    def test_what_the_file_has_is_not_run_again(self, tmp_path, monkeypatch):
        found = Results(tmp_path / "dev.jsonl")
        found.add("dapo", 1, {"pass_at": {1: 0.4, 16: 0.6}, "drawn": 100.0})
        run = []
        monkeypatch.setattr(choose, "warm_up", lambda seed, runs: run.append(seed))
        monkeypatch.setattr(choose, "megatron_stare", lambda *line: run.append(line[-2]))
        monkeypatch.setattr(choose, "sample_policy", lambda run, problems: [])
        monkeypatch.setattr(choose, "summarise", lambda *_: {"pass_at": {1: 0.5}})
        monkeypatch.setattr(choose, "costs", lambda run: {"drawn": 200.0})
        dev = choose.Dev([1, 2], tmp_path, 1, Results(tmp_path / "dev.jsonl"))
        assert dev.run({"dapo": {}}) == {"dapo": [0.4, 0.5]}
        assert run == [2, 'variants={"dapo": {}}']
        assert dev.cost("dapo", "drawn") == 150.0
        again = choose.Dev([1, 2], tmp_path, 1, Results(tmp_path / "dev.jsonl"))
        assert again.run({"dapo": {}}) == {"dapo": [0.4, 0.5]}
        assert len(run) == 2

    def test_lines_of_other_configs_count_for_nothing(self, tmp_path, monkeypatch):
        path = tmp_path / "dev.jsonl"
        Results(path).add("dapo", 1, {"drawn": 100.0})
        assert Results(path).of("dapo", 1) == {"drawn": 100.0}
        monkeypatch.setattr(results, "configs", lambda: "others")
        assert Results(path).of("dapo", 1) is None


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

    def test_a_seed_that_does_not_get_through_is_replaced_and_named(self, tmp_path, capsys):
        def measure(seed):
            if seed in (102, 104):
                raise FailedWarmUp(f"sft-seed{seed}: the warm-up failed")
            return {"drawn": seed}

        results = Results(tmp_path / "test.jsonl")
        assert [*measured([101, 102, 103], results, measure)] == [101, 103, 105]
        first, second, *_ = capsys.readouterr().out.splitlines()
        assert first == "trial: sft-seed102: the warm-up failed"
        assert second == "trial: seed 104 takes its place"

    def test_a_run_that_cannot_be_made_is_no_seed_to_replace(self, tmp_path):
        def measure(seed):
            raise UserError("sft failed; its message is above")

        with pytest.raises(UserError, match="sft failed"):
            measured([101], Results(tmp_path / "test.jsonl"), measure)

    def test_what_the_file_has_is_not_run_again(self, tmp_path):
        path, asked = tmp_path / "test.jsonl", []

        def measure(seed):
            asked.append(seed)
            return seed_measures(0.4, 0.3)

        first = measured([101, 102], Results(path), measure)
        assert measured([101, 102, 103], Results(path), measure) == first | {103: first[101]}
        assert asked == [101, 102, 103]

    def test_differences_are_paired_by_seed(self):
        found = {101: seed_measures(0.40, 0.30), 102: seed_measures(0.45, 0.33)}
        found[103] = seed_measures(0.50, 0.42)
        difference = differences(found, "drawn")["pass@1"]
        assert difference is not None
        assert difference.half_width is not None
        assert difference.mean == pytest.approx(0.1)
        # t of 2 degrees of freedom is 4.3027; the differences' std is 0.02.
        assert difference.half_width == pytest.approx(4.3027 * 0.02 / 3**0.5, rel=1e-4)
        assert "| pass@1 | +10.0 ± 5.0 |" in markdown(found, ["drawn"])


def seed_measures(stare: float, dapo: float) -> dict[str, object]:
    return {"drawn": {"dapo_step": 200, "stare": measures(stare), "dapo": measures(dapo)}}


def measures(rate: float) -> dict[str, object]:
    rates = {1: rate, 16: rate}
    return {"pass_at": rates, "deployed": rate, "product_pass_at": rates, "lost_problems": rate}
