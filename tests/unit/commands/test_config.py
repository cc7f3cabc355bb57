"""`megatron-stare config`: schemas, differences; and the help of configs."""

import json
from pathlib import Path

import pytest
import yaml

from megatron_stare.cli import main
from megatron_stare.config.kinds import KINDS

REPO = Path(__file__).parents[3]
EXAMPLES = [path for path in sorted(REPO.glob("examples/*/*.yaml")) if path.stem != "screening"]
SMALLEST = "model: {path: m}\ndata: {path: d.jsonl, max_prompt_tokens: 9}\n"


@pytest.fixture
def config(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(SMALLEST + "rollout: {max_response_tokens: 9}\n")
    return "run.yaml"


def said(capsys, *line: str) -> str:
    with pytest.raises(SystemExit, match="0"):
        main(line)
    return capsys.readouterr().out


def kind_of(path: Path) -> str:
    if path.stem in ("compare", "eval"):
        return path.stem
    tree = yaml.safe_load(path.read_text())
    return next((kind for kind in ("sft", "prefer") if kind in tree), "train")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_examples_are_as_the_schema_of_their_kind_says(path):
    jsonschema = pytest.importorskip("jsonschema")
    schema = KINDS[kind_of(path)].model_json_schema()

    jsonschema.validate(yaml.safe_load(path.read_text()), schema)


def test_a_schema_finds_what_is_wrong(capsys):
    jsonschema = pytest.importorskip("jsonschema")
    assert main(["config", "--schema", "--kind", "train"]) == 0
    schema = json.loads(capsys.readouterr().out)

    tree = {
        "model": {"path": "m"},
        "data": {},
        "optim": {"lrr": 1},
        "algorithm": {"stare": {"w": 0}},
    }
    problems = [
        ".".join(map(str, problem.absolute_path))
        for problem in jsonschema.Draft202012Validator(schema).iter_errors(tree)
    ]
    assert sorted(problems) == ["algorithm.stare.w", "optim"]


def test_what_differs_is_told_key_by_key(config, tmp_path, capsys):
    (tmp_path / "other.yaml").write_text((tmp_path / config).read_text() + "optim: {lr: 1.0e-5}\n")

    line = ["config", config, "run.seed=7", "algorithm.method=grpo", "--diff", "other.yaml"]
    assert main(line) == 0

    printed = capsys.readouterr().out.splitlines()
    assert "run.seed: 1 -> 7" in printed
    assert "optim.lr: 1e-05 -> 1e-06" in printed
    assert [line.partition(":")[0] for line in printed] == [
        *("run.seed", "algorithm.links", "algorithm.method", "optim.lr")
    ]


def test_a_config_is_expected(capsys):
    assert main(["config"]) == 2
    assert "expected a file, or --schema" in capsys.readouterr().err


def test_help_names_the_sections(capsys):
    printed = said(capsys, "train", "--help")
    assert "\n  optim         AdamW and its schedule.\n" in printed
    assert "optim.lr" not in printed


@pytest.mark.parametrize("wanted", ["optim", "optim.lr", "all"])
def test_help_of_a_section_has_its_keys_wrapped(capsys, monkeypatch, wanted):
    monkeypatch.setenv("COLUMNS", "70")
    printed = said(capsys, "train", "--help", wanted)
    assert "  optim.lr: number (> 0, <= 10) = 1e-06\n      Peak learning rate.\n" in printed
    assert ("optim.beta1" in printed) == (wanted != "optim.lr")
    assert ("log.wandb_mode" in printed) == (wanted == "all")
    texts = [line for line in printed.splitlines() if line.startswith(" " * 6)]
    assert max(map(len, texts)) <= 70


def test_an_unknown_section_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--help", "optimizer"])
    assert "no section 'optimizer', expected one of all, run, model" in capsys.readouterr().err
