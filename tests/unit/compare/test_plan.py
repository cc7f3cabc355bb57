"""Which runs a comparison has, and what is refused before the first of them begins."""

from __future__ import annotations

import shutil

import pytest

from megatron_stare.cli import main
from megatron_stare.compare.plan import check_array, check_runs_here, check_settings, plan_runs
from megatron_stare.errors import UserError
from tests.unit.compare.folders import read_comparison, write_base, write_finished


@pytest.fixture
def folder(tmp_path):
    write_base(tmp_path)
    return tmp_path


def test_runs_of_a_seed_stand_together(folder):
    runs = plan_runs(read_comparison(folder, variants={"high_lr": {"optim.lr": 1e-3}}))
    titles = ("grpo-seed1", "stare-seed1", "high_lr-seed1", "grpo-seed2", "stare-seed2")
    assert [run.title for run in runs] == [*titles, "high_lr-seed2"]
    assert [run.config.run.seed for run in runs] == [1, 1, 1, 2, 2, 2]
    assert [run.config.algorithm.method for run in runs[:2]] == ["grpo", "stare"]
    assert {run.folder.parent for run in runs} == {folder / "compared"}


def test_settings_are_of_every_run_and_variants_add_to_them(folder):
    config = read_comparison(
        folder,
        "settings.train.steps=7",
        settings={"model.path": f"{folder}/{{seed}}", "optim": {"lr": 1e-4}},
        variants={"mine": {"optim": {"lr": 1e-3}, "algorithm.links": ["grpo", "stapo"]}},
    )
    runs = {run.title: run.config for run in plan_runs(config)}
    assert {run.train.steps for run in runs.values()} == {7}
    assert runs["grpo-seed2"].model.path == folder / "2"
    assert runs["grpo-seed1"].optim.lr == 1e-4
    assert runs["mine-seed1"].optim.lr == 1e-3
    assert list(runs["mine-seed1"].algorithm.links) == ["grpo", "stapo"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"methods": []}, r"methods=\[\] and variants=\{\}: expected some"),
        ({"seeds": []}, r"seeds: .*at least 1 item"),
        ({"seeds": [1, 2, 1]}, r"seeds=\[1, 2, 1\]: 1 stands twice"),
        ({"methods": ["grpo", "grpo"]}, r"grpo stands twice among methods and variants"),
        ({"variants": {"stare": {}}}, r"stare stands twice"),
        ({"variants": {"a/b": {}}}, r"'a/b': expected a name of letters"),
        ({"variants": {"a-seed1": {}}}, r"'a-seed1': .*does not end in -seedN"),
        ({"baseline": "dapo"}, r"baseline='dapo': expected one of grpo, stare"),
        ({"settings": {"run": {"seed": 3}}}, r"settings: run.seed is set by the comparison"),
        ({"variants": {"a": {"run.dir": "x"}}}, r"a: run.dir is set by the comparison"),
        ({"jobs": 0}, r"jobs: .*greater than or equal to 1"),
        ({"jobs": 10**9}, r"jobs: .*less than or equal to 4096"),
        (
            {"seeds": list(range(5001))},
            r"2 methods .* over 5001 seeds: expected at most 10,000 runs",
        ),
        (
            {"settings": {"optim": {"lr": 1e-3}, "optim.lr": 1e-4}},
            r"settings: optim.lr stands twice, dotted and in its section",
        ),
        ({"settings": {"optim.lr=1": 2}}, r"settings: 'optim.lr=1': expected a key, found a ="),
        ({"method": ["grpo"]}, r"method: unknown key .*did you mean methods"),
    ],
)
def test_a_comparison_that_cannot_be(folder, keys, said):
    with pytest.raises(UserError, match=said):
        read_comparison(folder, **keys)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"methods": ["grop"]}, r"^grop-seed1: .*method='grop': expected one of grpo"),
        ({"settings": {"train.stepz": 1}}, r"^grpo-seed1: .*train.stepz: unknown key"),
        ({"variants": {"a": {"optim.lr": -1}}}, r"^a-seed1: .*optim.lr: "),
        ({"settings": {"model.path": "sft-{seed}"}}, r"^grpo-seed1: .*sft-1"),
        ({"settings": {"eval.data.path": "no.jsonl"}}, r"^grpo-seed1: eval.data.path=no.jsonl"),
        ({"settings": {"parallel.tensor": 2}}, r"^grpo-seed1: .*world size 1 does not fit"),
        ({"settings": {"algorithm.links": ["grpo"]}}, r"^stare and grpo are the same run"),
        ({"variants": {"also": {"algorithm.method": "grpo"}}}, r"^also and grpo are the same run"),
    ],
)
def test_every_config_is_checked_before_the_first_run(folder, keys, said):
    with pytest.raises(UserError, match=said):
        check(read_comparison(folder, **keys))
    assert not (folder / "compared").exists()


def check(config):
    runs = plan_runs(config)
    check_settings(runs)
    check_runs_here(runs, num_places=2)
    return runs


def test_runs_of_other_settings_are_not_taken_for_these(folder):
    run = check(read_comparison(folder))[0]
    write_finished(run, accuracy=0.5, pass_at_4=1.0)
    with pytest.raises(UserError, match=r"grpo-seed1/config.yaml: optim.lr is 1e-06, now it is"):
        check(read_comparison(folder, settings={"optim.lr": 1e-3}))


def test_what_changes_no_result_may_change(folder):
    write_finished(check(read_comparison(folder))[0], accuracy=0.5, pass_at_4=1.0)
    settings = {"log.progress": False, "checkpoint.every": 1, "reward.workers": 1}
    assert check(read_comparison(folder, settings=settings))[0].is_finished


@pytest.mark.parametrize("missing", ["steps", "evaluation", "model", "everything"])
def test_a_run_is_finished_with_its_last_step_its_evaluation_and_its_model(folder, missing):
    run = plan_runs(read_comparison(folder))[0]
    if missing != "everything":
        write_finished(run, accuracy=0.5, pass_at_4=1.0, steps=3 if missing == "steps" else 4)
    if missing == "model":
        shutil.rmtree(run.folder / "hf")
    if missing == "evaluation":
        path = run.folder / "metrics.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert not run.is_finished
    assert run.has_begun == (missing != "everything")


def test_runs_at_a_time_do_not_share_servers(folder):
    servers = {"rollout.engine": "sglang", "rollout.servers.registry": "servers"}
    runs = plan_runs(read_comparison(folder, settings=servers))
    check_runs_here(runs, num_places=1)
    with pytest.raises(UserError, match=r"grpo-seed1: .*2 runs at a time.*expected jobs=1"):
        check_runs_here(runs, num_places=2)
    check_array(runs)
    urls = {"rollout.engine": "sglang", "rollout.servers.urls": ["http://127.0.0.1:1"]}
    with pytest.raises(UserError, match=r"grpo-seed1: rollout.servers.urls=.*expected a registry"):
        check_array(plan_runs(read_comparison(folder, settings=urls)))


def test_an_array_has_one_slurm_section(folder):
    variants = {"more": {"slurm.nodes": 2}}
    with pytest.raises(UserError, match=r"more-seed1: slurm differs from grpo-seed1's"):
        check_array(plan_runs(read_comparison(folder, variants=variants)))
    sweep = {"slurm.sweep": ["run.seed=1"]}
    with pytest.raises(UserError, match=r"grpo-seed1: slurm .*has a sweep"):
        check_array(plan_runs(read_comparison(folder, settings=sweep)))


def test_a_dry_run_prints_the_plan_and_touches_nothing(folder, capsys):
    config = read_comparison(folder, baseline="stare")
    write_finished(plan_runs(config)[0], accuracy=0.5, pass_at_4=1.0)
    before = sorted(folder.rglob("*"))
    assert main(["compare", str(folder / "compare.yaml"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "4 runs of" in printed
    assert "seeds 1, 2, baseline stare" in printed
    row = next(line for line in printed.splitlines() if line.strip().startswith("grpo"))
    assert row.split() == ["grpo", "algorithm.method=grpo", "1", "0", "1"]
    assert sorted(folder.rglob("*")) == before


def test_a_wrong_comparison_ends_with_one_line(folder, capsys):
    read_comparison(folder, methods=["grop"])
    assert main(["compare", str(folder / "compare.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("megatron-stare: error: grop-seed1: ")
    assert not (folder / "compared").exists()
