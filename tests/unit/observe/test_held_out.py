"""The table of an evaluation."""

from __future__ import annotations

from megatron_stare.observe.held_out import held_out_table

AIME = {
    "problems": 30.0,
    "avg_at_k": 0.4125,
    "avg_at_k_se": 0.0716,
    "pass_at_1": 0.4125,
    "pass_at_8": 0.6,
    "pass_at_32": 0.7,
    "maj_at_k": 0.5,
    "response_tokens_mean": 12345.6,
    "truncated_share": 0.025,
}
MATH = {"problems": 500.0, "avg_at_k": 0.9, "pass_at_1": 0.9, "truncated_share": 0.0}


def under(prefix, measures):
    return {f"{prefix}/{name}": value for name, value in measures.items()}


def test_a_row_a_set_and_the_mean_of_them():
    sets = under("eval/set/aime24", AIME) | under("eval/set/math500", MATH)
    header, rows = held_out_table(sets | {"eval/avg_at_k": 0.65625, "eval/avg_at_k_se": 0.036})
    assert header == [
        *("", "problems", "k", "avg@k", "± s.e.", "pass@k", "maj@k", "tokens", "truncated")
    ]
    assert rows == [
        ["aime24", "30", "32", "41.2%", "7.2%", "70.0%", "50.0%", "12,345.6", "2.5%"],
        ["math500", "500", "1", "90.0%", "–", "–", "–", "–", "0.0%"],
        ["mean", "–", "–", "65.6%", "3.6%", "–", "–", "–", "–"],
    ]


def test_sources_of_a_single_set_stand_before_all_of_it():
    metrics = under("eval", MATH) | under("eval/source/algebra", MATH | {"failures": 2.0})
    header, rows = held_out_table(metrics)
    assert header == ["", "problems", "k", "avg@k", "truncated", "failures"]
    assert rows == [
        ["algebra", "500", "1", "90.0%", "0.0%", "2"],
        ["all", "500", "1", "90.0%", "0.0%", "–"],
    ]


def test_a_single_set_by_name_is_its_own_mean():
    metrics = under("eval/set/aime24", AIME) | {"eval/avg_at_k": 0.4125}
    assert [row[0] for row in held_out_table(metrics).rows] == ["aime24"]
