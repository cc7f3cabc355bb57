import json

import pytest

from megatron_stare.errors import UserError
from megatron_stare.observe.run_folders import num_steps, read_runs, spread, titles
from tests.unit.observe.synthetic import write_metrics, write_samples


def write_tiny(folder, rewards, start=1):
    metrics = {step: {"reward/mean": reward} for step, reward in enumerate(rewards, start)}
    return write_metrics(folder, metrics)


def test_seeds_of_one_name_share_a_label_in_the_order_given(tmp_path):
    names = ["stare-seed2", "grpo-seed1", "stare-seed10", "grpo", "reseed1"]
    runs = read_runs([write_tiny(tmp_path / name, [0.5]) for name in names])
    assert {label: [run.path.name for run in group] for label, group in runs.items()} == {
        "stare": ["stare-seed2", "stare-seed10"],
        "grpo": ["grpo-seed1", "grpo"],
        "reseed1": ["reseed1"],
    }
    assert titles(runs) == ["stare (2 seeds)", "grpo (2 seeds)", "reseed1"]


def test_a_spread_is_over_the_steps_that_all_runs_have(tmp_path):
    runs = read_runs(
        [
            write_tiny(tmp_path / "a-seed1", [0.0, 0.2, 0.4]),
            write_tiny(tmp_path / "a-seed2", [0.6, 0.8], start=2),
        ]
    )
    found = spread(runs["a"], "reward/mean")
    assert found is not None
    assert found.steps.tolist() == [2, 3]
    assert found.mean.tolist() == pytest.approx([0.4, 0.6])
    assert found.low.tolist() == [0.2, 0.4]
    assert found.high.tolist() == [0.6, 0.8]
    assert spread(runs["a"], "entropy/mean") is None


def test_runs_without_a_common_step_have_no_spread(tmp_path):
    runs = read_runs(
        [write_tiny(tmp_path / "a-seed1", [0.0]), write_tiny(tmp_path / "a-seed2", [1.0], start=2)]
    )
    assert spread(runs["a"], "reward/mean") is None


def test_the_length_of_a_run_is_that_of_its_loop():
    assert num_steps({"train": {"steps": 7}}) == num_steps({"sft": {"steps": 7}}) == 7
    assert num_steps({"prefer": {"steps": 7}}) == 7
    assert num_steps({"eval": {}}) is None


def test_samples_are_the_first_of_each_prompt(tmp_path):
    run_dir = write_tiny(tmp_path / "a", [0.5])
    write_samples(run_dir, [1, 20])
    (run,) = read_runs([run_dir])["a"]
    assert run.sample_steps() == [1, 20]
    samples = run.samples(20, limit=3)
    assert [sample.prompt for sample in samples] == [f"What is 3 + {n}?" for n in (4, 5, 6)]
    assert all(sample.correct == 1.0 for sample in samples)


def test_a_dump_that_is_being_written_is_read_as_far_as_it_goes(tmp_path):
    run_dir = write_tiny(tmp_path / "a", [0.5])
    write_samples(run_dir, [1])
    dump = run_dir / "samples" / "step_000001.jsonl"
    first, second, third, *_ = dump.read_text().splitlines(keepends=True)
    dump.write_text(first + second + third[:30])
    (run,) = read_runs([run_dir])["a"]
    assert [sample.prompt for sample in run.samples(1, limit=8)] == ["What is 3 + 4?"]


def test_a_dump_without_a_field_is_named(tmp_path):
    run_dir = write_tiny(tmp_path / "a", [0.5])
    write_samples(run_dir, [1])
    (run_dir / "samples" / "step_000001.jsonl").write_text(json.dumps({"prompt": "?"}) + "\n")
    (run,) = read_runs([run_dir])["a"]
    with pytest.raises(UserError, match=r"step_000001.jsonl:1: expected prompt, response"):
        run.samples(1, limit=1)


def test_what_is_not_a_run_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run folders given"):
        read_runs([])
    with pytest.raises(UserError, match=r"nowhere/metrics.jsonl: cannot read"):
        read_runs([tmp_path / "nowhere"])

    bare = write_tiny(tmp_path / "bare", [0.5])
    (bare / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"bare/config.yaml: cannot read the config"):
        read_runs([bare])
    (bare / "config.yaml").write_text("[1, 2]")
    with pytest.raises(UserError, match=r"config.yaml: expected the resolved config, found list"):
        read_runs([bare])
    (bare / "config.yaml").write_text("a: {b")
    with pytest.raises(UserError, match=r"config.yaml: not valid YAML"):
        read_runs([bare])


def test_two_runs_of_one_name_would_be_mixed_up_and_are_refused(tmp_path):
    folders = [write_tiny(tmp_path / parent / "grpo", [0.5]) for parent in ("x", "y")]
    with pytest.raises(UserError, match=r"y/grpo: has the name of .*x/grpo; rename"):
        read_runs(folders)
