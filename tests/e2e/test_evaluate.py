"""`megatron-stare eval` as a user runs it: several sets, killed and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_stare.cli import main
from tests.e2e.processes import Running
from tests.e2e.programs import REPO, make_workspace, metrics_of, succeed, write_jsonl, write_yaml
from tests.models import make_hf_folder

pytestmark = pytest.mark.slow
AIME = REPO / "../shared/data/aime24.jsonl"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """Two sets, and a verifier that likes some responses of an untrained model."""
    folder = make_workspace(tmp_path_factory.mktemp("evaluate"), num_hidden_layers=1)
    problems = [*map(json.loads, (folder / "prompts.jsonl").read_text().splitlines())]
    write_jsonl(folder / "few.jsonl", problems[:3])
    write_yaml(
        folder / "eval.yaml",
        {
            "run": {"dir": str(folder / "eval")},
            "model": {"path": str(folder / "model")},
            "rollout": {"max_batch_sequences": 8},
            "reward": {"kind": "tests.e2e.verifiers:likes_some", "workers": 1},
            "eval": {
                "samples_per_prompt": 4,
                "max_response_tokens": 6,
                "sets": {
                    "begin": {"data": {"path": str(folder / "few.jsonl")}, "samples_per_prompt": 8},
                    "whole": {
                        "data": {"path": str(folder / "prompts.jsonl")},
                        "temperature": 0.5,
                        "max_response_tokens": 12,
                    },
                },
            },
            "log": {"progress": False},
        },
    )
    return folder


@pytest.fixture(scope="module")
def printed(workspace) -> str:
    return succeed("eval", workspace / "eval.yaml")


def measured(folder: Path) -> dict[str, float]:
    return json.loads((folder / "eval.json").read_text())


def samples_of(folder: Path, name: str) -> list[dict]:
    """Of a set, but for how long they took."""
    lines = (folder / f"eval_samples/{name}.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.endswith("seconds")} for line in lines
    ]


def test_every_set_is_asked_in_its_own_way_and_has_a_row(workspace, printed):
    metrics = measured(workspace / "eval")
    rows = [line.split() for line in printed.splitlines()]
    by_title = {row[0]: row for row in rows if row}
    assert by_title["begin"][1:3] == ["3", "8"]
    assert by_title["whole"][1:3] == ["12", "4"]
    mean = (metrics["eval/set/begin/avg_at_k"] + metrics["eval/set/whole/avg_at_k"]) / 2
    assert metrics["eval/avg_at_k"] == pytest.approx(mean)
    assert by_title["mean"][3] == f"{100 * mean:.1f}%"
    few, every = (samples_of(workspace / "eval", name) for name in ("begin", "whole"))
    assert (len(few), len(every)) == (24, 48)
    assert max(len(sample["token_ids"]) for sample in few) == 6
    assert max(len(sample["token_ids"]) for sample in every) == 12


def test_an_evaluation_is_a_run_of_one_step_to_the_report(workspace, printed, tmp_path):
    assert str(workspace / "eval") in printed
    (step,) = metrics_of(workspace / "eval")
    assert step == pytest.approx(measured(workspace / "eval"))
    succeed("report", workspace / "eval", "--out", tmp_path)


def test_one_that_is_killed_goes_on_to_the_same_bits(workspace, printed, tmp_path):
    killed = tmp_path / "killed"

    def size() -> int:
        return sum(path.stat().st_size for path in killed.glob("bank/whole/*.bank"))

    with Running.start(killed, workspace / "eval.yaml", command="eval") as running:
        running.wait_for(lambda: size() > 800)  # A batch of the second set.
        running.kill()
    assert not (killed / "eval.json").exists()
    said = succeed("eval", workspace / "eval.yaml", f"run.dir={killed}")
    assert "step 0: 24 of 24 samples had been generated before" in said
    assert measured(killed) == measured(workspace / "eval")
    for name in ("begin", "whole"):
        assert samples_of(killed, name) == samples_of(workspace / "eval", name)


def test_what_is_sampled_is_not_sampled_again_for_a_further_set(workspace, printed, tmp_path):
    """A set that changes is; the others are not."""
    further = (
        f"eval.sets.third.data.path={workspace}/few.jsonl",
        "eval.sets.begin.temperature=0.25",
    )
    said = succeed("eval", workspace / "eval.yaml", *further)
    assert "48 of 48 samples had been generated before" in said
    assert "24 of 24" not in said
    assert "third" in said


@pytest.mark.skipif(not AIME.exists(), reason=f"{AIME}: the file of AIME 2024 is not there")
def test_the_recipe_asks_the_problems_of_aime(tmp_path):
    """Of the real file, as it is, with a model that knows nothing; k and lengths are cut."""
    make_hf_folder(tmp_path / "model", "qwen3", num_hidden_layers=1, max_position_embeddings=4096)
    data = f"{{path: {AIME}, prompt_field: problem, max_prompt_tokens: 2000}}"
    said = succeed(
        *("eval", REPO / "examples/aime/eval.yaml", f"model.path={tmp_path}/model"),
        *(f"run.dir={tmp_path}/out", "model.dtype=float32", "reward.workers=1"),
        *("rollout.engine=embedded", "rollout.servers.registry=null", "log.progress=false"),
        *(f"eval.sets.aime{year}.data={data}" for year in (24, 25)),
        *("eval.samples_per_prompt=2", "eval.max_prompts=3", "eval.max_response_tokens=8"),
    )
    assert "30 of 30 rows used" in said
    rows = {row[0]: row[1:] for row in map(str.split, said.splitlines()) if row}
    assert rows["aime24"][:3] == rows["aime25"][:3] == ["3", "2", "0.0%"]
    assert rows["mean"][2] == "0.0%"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("eval.sets.whole.data.path=no/such.jsonl", "no/such.jsonl: no such file"),
        ("eval.sets.whole.max_response_tokens=4000", "eval.sets.whole.data: the longest prompt"),
        ("eval.sets={}", "eval.data: missing, expected the problems to evaluate on, or eval.sets"),
        ("run.dir=TRAINED", "has checkpoints/, so that it is a training run's; expected a folder"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(workspace, tmp_path, capsys, override, message):
    (tmp_path / "trained/checkpoints").mkdir(parents=True)
    override = override.replace("TRAINED", str(tmp_path / "trained"))
    out = tmp_path / "out"
    assert main(["eval", str(workspace / "eval.yaml"), f"run.dir={out}", override]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert message in line
    assert not out.exists()
    assert [path.name for path in (tmp_path / "trained").iterdir()] == ["checkpoints"]
