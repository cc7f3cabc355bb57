"""The tool behind the table of docs/plan.md."""

import pytest

from megatron_stare.plan.report import table
from tools.simulate_scale import HEAD, MODES, cells, draw, in_order, job_of, simulate


def test_packing_in_order_loses_nothing():
    lengths = [30, 90, 10, 50, 50, 20, 70]
    ranks = in_order(range(7), lengths, [0.0] * 7, 2, 100)
    assert ranks == [[(0, 2, 4), (6,)], [(1,), (3, 5)]]


def test_a_row_for_every_mode(tmp_path):
    job = job_of(64, ["rollout.prompts_per_step=8"], "h100-80", [])
    rows = [simulate(job, mode, num_steps=1) for mode in MODES]
    printed = table(HEAD, [cells(row, rows[0]) for row in rows])
    assert all(mode.name in printed for mode in MODES)
    assert rows[4].tokens_s > rows[0].tokens_s
    draw(rows, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").stat().st_size > 10_000


def test_assumptions_reach_the_simulation():
    def step_s(*assume: str) -> float:
        job = job_of(64, ["rollout.prompts_per_step=8"], "h100-80", assume)
        return simulate(job, MODES[1], num_steps=1).mean("step")

    assert step_s("decode_overhead_s=0.02") > step_s() > step_s("response_mean_share=0.1")
    assert step_s("disk_write_gb_s=1") - step_s() == pytest.approx(65.5 / 2, rel=0.01)
