"""`megatron-stare pivots` as a user runs it, kills it, and trains on what it has kept."""

from __future__ import annotations

import json

import pytest

from megatron_stare.cli import main
from megatron_stare.rollout.profile import kind_of
from tests.e2e.processes import Running
from tests.e2e.programs import make_workspace, succeed, write_jsonl, write_yaml

pytestmark = pytest.mark.slow
LIKES_SOME = "tests.e2e.verifiers:likes_some"
SOME = f"reward.kind={LIKES_SOME}"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = make_workspace(tmp_path_factory.mktemp("pivots"), num_hidden_layers=1)
    write_yaml(
        folder / "pivots.yaml",
        {
            "run": {"dir": str(folder / "pivots")},
            "model": {"path": str(folder / "model")},
            "data": {"path": str(folder / "prompts.jsonl"), "max_prompt_tokens": 40},
            "reward": {"kind": LIKES_SOME, "workers": 1},
            "pivots": {
                "max_mean": 0.6,
                "samples_per_state": 4,
                "max_response_tokens": 6,
                "max_batch_sequences": 8,
            },
            "log": {"progress": False},
        },
    )
    return folder


@pytest.fixture(scope="module")
def printed(workspace):
    return succeed("pivots", workspace / "pivots.yaml")


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "pivots.jsonl").read_text().splitlines()]


def test_states_that_vary_are_kept_as_they_were_with_how_often_they_were_solved(workspace, printed):
    problems = [*map(json.loads, (workspace / "prompts.jsonl").read_text().splitlines())]
    rows, numbers = (
        rows_of(workspace / "pivots"),
        json.loads((workspace / "pivots/pivots.json").read_text()),
    )
    assert numbers["states"] == len(problems)
    assert sum(numbers.values()) == 2 * len(problems)
    assert 0 < len(rows) == numbers["kept"] < len(problems)
    plain = [{"prompt": row["prompt"], "answer": row["answer"]} for row in rows]
    assert plain == [problem for problem in problems if problem in plain]
    for row in rows:
        verdicts = [1.0] * round(4 * row["pass_rate"])
        assert kind_of(verdicts + [0.0] * (4 - len(verdicts)), 0.6) == "kept"
        assert row["num_samples"] == 4
    assert f"kept\t{numbers['kept']}" in printed


def test_a_profile_that_is_killed_goes_on_and_comes_to_the_same(workspace, printed, tmp_path):
    killed = tmp_path / "killed"

    def size() -> int:
        return sum(path.stat().st_size for path in killed.glob("profile-*.records"))

    with Running.start(killed, workspace / "pivots.yaml", command="pivots") as running:
        running.wait_for(lambda: size() > 60)  # A batch behind the header.
        running.kill()
    before = size()
    assert not (killed / "pivots.jsonl").exists()
    succeed("pivots", workspace / "pivots.yaml", f"run.dir={killed}")
    assert size() > before
    assert rows_of(killed) == rows_of(workspace / "pivots")
    # Another threshold needs no sampling: with a policy that cannot be loaded it would fail.
    succeed("pivots", workspace / "pivots.yaml", f"run.dir={killed}", "pivots.max_mean=1")
    assert len(rows_of(killed)) >= len(rows_of(workspace / "pivots"))
    assert len([*killed.glob("profile-*.records")]) == 1


def test_states_within_responses_are_a_data_set_to_train_on(workspace, tmp_path):
    dumped = [
        {"prompt": f"{i}+1=", "answer": str(i + 1), "response": f"so\n\n{i}\n\nthen {i}"}
        for i in range(6)
    ]
    write_jsonl(tmp_path / "dumped.jsonl", dumped)
    out = tmp_path / "pivots"
    settings = (f"data.path={tmp_path}/dumped.jsonl", "pivots.response_field=response")
    said = succeed("pivots", workspace / "pivots.yaml", *settings, f"run.dir={out}")
    assert "18 states of their responses" in said
    rows = rows_of(out)
    assert {row["cut"] for row in rows} == {0, 1, 2}
    assert all(row["prompt"].count("\n\n") == row["cut"] for row in rows)
    small = (
        *("rollout.engine=embedded", "rollout.replay_path=null", SOME, "train.steps=1"),
        *("rollout.max_response_tokens=6", "rollout.dynamic_sampling=false"),
        *("data.parse_special_tokens=true", "data.max_prompt_tokens=40"),
    )
    data = (f"data.path={out}/pivots.jsonl", f"run.dir={tmp_path}/run")
    succeed("train", workspace / "train.yaml", *small, *data)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reward.kind=exact", "pivots.max_mean=0.6: none of 12 states is kept (12 never_right)"),
        ("data.path=no/such.jsonl", "no/such.jsonl: no such file"),
        ("pivots.max_mean=null", "pivots.max_mean"),
        ("pivots.samples_per_state=1", "pivots.samples_per_state"),
        ("pivots.response_field=solution", "no field 'solution'"),
        ("model.path=no/such/model", "no/such/model"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_data_set(
    workspace, tmp_path, capsys, override, message
):
    out = tmp_path / "out"
    assert main(["pivots", str(workspace / "pivots.yaml"), f"run.dir={out}", override]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert message in line
    assert not (out / "pivots.jsonl").exists()
    assert out.exists() == (override == "reward.kind=exact")
