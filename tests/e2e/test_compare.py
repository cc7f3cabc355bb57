"""`megatron-stare compare` with real runs: a table, a failure that is named, and going on."""

import json

import pytest

from tests.e2e.programs import make_workspace, metrics_of, run_command, write_yaml

pytestmark = pytest.mark.slow
SETTINGS = {
    "rollout": {"engine": "embedded", "replay_path": None, "dynamic_sampling": False},
    "rollout.max_response_tokens": 8,
    "train.steps": 3,
    "reward.workers": 1,
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """GRPO, STARE and a variant that cannot run, three steps each; and the same with it mended."""
    folder = make_workspace(tmp_path_factory.mktemp("compare"))
    held_out = {"eval.data.path": f"{folder}/prompts.jsonl", "eval.samples_per_prompt": 2}
    tree = {
        "base": f"{folder}/train.yaml",
        "dir": f"{folder}/compared",
        "seeds": [1],
        "methods": ["grpo", "stare"],
        "variants": {"other": {"reward.kind": "no_such_module:reward"}},
        "settings": SETTINGS | held_out | {"eval.max_response_tokens": 8},
        "jobs": 3,
    }
    write_yaml(folder / "compare.yaml", tree)
    first = run_command("compare", folder / "compare.yaml")
    page = (folder / "compared/comparison.md").read_text()
    metrics = (folder / "compared/grpo-seed1/metrics.jsonl").read_bytes()
    write_yaml(folder / "compare.yaml", tree | {"variants": {"other": {"optim.lr": 1e-2}}})
    second = run_command("compare", folder / "compare.yaml")
    return folder / "compared", first, page, metrics, second


def test_runs_go_on_beside_one_that_fails_and_it_is_named_with_its_reason(compared):
    _, first, page, _, _ = compared
    assert first.returncode == 1, first.stdout + first.stderr
    states = {line.split(" | ")[0]: line for line in page.split("## Runs")[1].splitlines()}
    assert states["| grpo-seed1"].endswith("| finished |")
    assert states["| stare-seed1"].endswith("| finished |")
    assert "exit code 2: " in states["| other-seed1"]
    assert "no_such_module" in states["| other-seed1"]
    assert "other-seed1 is not in the numbers: exit code 2" in first.stdout


def test_every_step_of_both_methods_is_finite(compared):
    for name in ("grpo", "stare"):
        steps = metrics_of(compared[0] / f"{name}-seed1")[1:]
        assert len(steps) == 3
        for metrics in steps:
            assert metrics["optim/skipped"] == 0
            assert metrics["loss/total"] is not None
            assert metrics["optim/grad_norm"] is not None


def test_what_is_finished_is_not_run_again(compared):
    folder, _, _, metrics, second = compared
    assert second.returncode == 0, second.stdout + second.stderr
    begun = [line for line in second.stdout.splitlines() if ": begins" in line]
    assert begun == ["other-seed1: begins, 0 wait"]
    assert (folder / "grpo-seed1/metrics.jsonl").read_bytes() == metrics


def test_the_table_holds_every_run_with_held_out_numbers(compared):
    tree = json.loads((compared[0] / "comparison.json").read_text())
    assert [run["name"] for run in tree["runs"]] == ["grpo", "stare", "other"]
    for run in tree["runs"]:
        assert run["problem"] is None
        assert {"accuracy", "pass_at_2", "entropy", "drawn", "seconds"} <= run["values"].keys()
        assert run["values"]["drawn"] == 12
    assert tree["differences"].keys() == {"stare", "other"}
    assert (compared[0] / "comparison.png").exists()
