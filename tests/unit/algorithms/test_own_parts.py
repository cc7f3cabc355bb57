"""Parts of users in a config: used like ours, and refused with one clear line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from megatron_stare.algorithms.config import AlgorithmConfig
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config_io import load_config, to_yaml
from megatron_stare.errors import UserError
from tests.unit.algorithms.own_parts import Between, Pull, Scaled, Sized

MODULE = "tests.unit.algorithms.own_parts"
SCALED, BETWEEN = f"{MODULE}:Scaled", f"{MODULE}:Between"
PULL, SIZED = f"{MODULE}:Pull", f"{MODULE}:Sized"
REPO = Path(__file__).parents[3]


@pytest.fixture
def load(tmp_path):
    """Loads an `algorithm` section with overrides."""

    def load(algorithm: dict, *overrides: str) -> AlgorithmConfig:
        path = tmp_path / "run.yaml"
        sections = {"model": {"path": "m"}, "data": {"path": "d.jsonl"}, "algorithm": algorithm}
        path.write_text(yaml.safe_dump(sections))
        return load_config(TrainConfig, path, overrides).algorithm

    return load


def chain(*links) -> dict:
    return {"method": "grpo", "links": ["grpo", *links]}


def test_a_link_of_ones_own_is_a_link(load):
    algorithm = load(chain({SCALED: {"factor": 2}}, "tis"))
    assert list(algorithm.links) == ["grpo", SCALED, "tis"]
    assert algorithm.links[SCALED] == Scaled(factor=2)


@pytest.mark.parametrize("name", ["_Hidden", "json"])
def test_a_class_may_have_any_name(load, name):
    algorithm = load(chain({f"{MODULE}:{name}": {"factor": 2}}), f"algorithm.{name}.factor=3")
    assert algorithm.links[f"{MODULE}:{name}"].model_dump() == {"factor": 3}


def test_a_term_of_ones_own_is_a_term(load):
    algorithm = load({"method": "grpo", "terms": ["kl", PULL]})
    assert algorithm.terms[PULL] == Pull()
    assert load({"method": "grpo", "policy": {PULL: {"coef": 2}}}).policy == {PULL: Pull(coef=2)}


def test_a_filter_of_ones_own_is_a_filter(load):
    algorithm = load({"filters": ["mixed", SIZED]}, "algorithm.Sized.least=3")
    assert list(algorithm.filters) == ["mixed", SIZED]
    assert algorithm.filters[SIZED] == Sized(least=3)
    assert load({"filters": []}).filters == {}


@pytest.mark.parametrize(
    "overrides",
    [
        ("algorithm.Scaled.factor=3",),
        ("algorithm.Scaled={factor: 3}",),
        ("algorithm.Scaled.factor=9", "algorithm.Scaled.factor=3"),
        (f"algorithm.links=[grpo, {{'{SCALED}': {{factor: 3}}}}]",),
        (f"algorithm.links={{grpo: , '{SCALED}': {{factor: 3}}}}",),
    ],
)
def test_a_dotted_override_reaches_into_it_by_the_name_of_its_class(load, overrides):
    algorithm = load(chain({SCALED: {"factor": 2}}), *overrides)
    assert algorithm.links[SCALED] == Scaled(factor=3)


def test_a_setting_without_a_default_may_stand_beside_the_chain(load):
    algorithm = load(chain(BETWEEN), "algorithm.Between.low=0.5")
    assert algorithm.links[BETWEEN] == Between(low=0.5)


def test_the_resolved_config_says_the_same_again(load, tmp_path):
    algorithm = load(chain({BETWEEN: {"low": 0.5}}, "tis"), "algorithm.Between.factor=0.75")
    path = tmp_path / "resolved.yaml"
    path.write_text(to_yaml(load_config(TrainConfig, tmp_path / "run.yaml")))
    assert load_config(TrainConfig, path).algorithm.links[BETWEEN] == Between(low=0.5)
    section = yaml.safe_load(yaml.safe_dump(algorithm.model_dump(mode="json")))
    assert AlgorithmConfig.model_validate(section) == algorithm


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (chain("no.such.module:Mine"), r"links: no\.such\.module:Mine cannot be had \(ModuleNot"),
        (
            chain(f"{MODULE}:Mine"),
            r"own_parts:Mine cannot be had \(AttributeError: module .*'Mine'",
        ),
        (chain("tests.unit.algorithms.broken_parts:Mine"), r"\(RuntimeError: no such device\)"),
        (chain(f"{'x' * 5000}:Mine"), r"x{80} cannot be had \(ModuleNotFoundError: .{1,200}\)"),
        (chain(":Mine"), r":Mine cannot be had \(ValueError"),
        (chain(f"{MODULE}:"), r"own_parts: cannot be had"),
        (chain(f"{MODULE}:NotAPart"), r"NotAPart: expected a class that extends Link"),
        (chain(f"{MODULE}:A_NUMBER"), r"A_NUMBER: expected a class that extends Link"),
        (chain(PULL), r"links: .*:Pull: expected a class that extends Link"),
        ({"terms": [SCALED]}, r"terms: .*:Scaled: expected a class that extends Term"),
        ({"filters": [SCALED]}, r"filters: .*:Scaled: expected a class that extends Filter"),
        ({"filters": ["grpo"]}, r"filters: unknown name 'grpo': expected one of mixed, "),
        (chain(SIZED), r"links: .*:Sized: expected a class that extends Link"),
        ({"policy": SCALED}, r"policy: .*:Scaled: expected a class that extends Term"),
        (chain({SCALED: {"factor": 11}}), r"algorithm\.Scaled\.factor: .*equal to 10, found 11"),
        (chain({SCALED: {"factor": "x"}}), r"algorithm\.Scaled\.factor: .*number.*found 'x'"),
        (chain({SCALED: {"factor": True}}), r"algorithm\.Scaled\.factor: expected a number"),
        (chain({SCALED: {"facter": 2}}), r"algorithm\.Scaled\.facter: unknown key \(value 2\)$"),
        (chain({f"{MODULE}:_Hidden": {"factor": 11}}), r"algorithm\._Hidden\.factor: .*found 11"),
        (chain({SCALED: 3}), r"algorithm\.Scaled: expected a section of keys, found 3"),
        (chain({BETWEEN: {}}), r"algorithm\.Between\.low: missing, and it has no default"),
        (chain({BETWEEN: {"low": 2}}), r"algorithm\.Between: low=2\.0 exceeds factor=1\.0"),
        (chain(SCALED, SCALED), r"algorithm: links: .*:Scaled stands twice"),
        (chain(SCALED, {SCALED: {"factor": 2}}), r"links: .*:Scaled stands twice"),
        (chain(SCALED, f"{__name__}:Scaled"), r"links: Scaled stands twice"),
        (chain(SCALED) | {"Scalled": {}}, r"unknown key 'Scalled': .*did you mean Scaled\?"),
        (chain() | {"Scaled": {"factor": 2}}, r"algorithm: unknown key 'Scaled': expected one of"),
        (chain("own_parts.Scaled"), r"links: unknown name 'own_parts\.Scaled': expected one of"),
        (chain(3), r"links: expected names of parts with their settings, found 3"),
        (chain([SCALED]), r"links: expected names of parts with their settings, found \["),
    ],
)
def test_what_is_wrong_is_said_in_one_line(load, algorithm, message):
    with pytest.raises(UserError, match=message) as refused:
        load(algorithm)
    assert len(str(refused.value).splitlines()) == 1


def test_a_file_in_the_working_directory_is_found_by_the_command(tmp_path):
    """As a verifier is, whatever starts Python there."""
    (tmp_path / "mine.py").write_text((REPO / "examples/own_method/weights.py").read_text())
    program = Path(sys.executable).parent / "megatron-stare"
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [program, "methods", "mine:Hesitation"],
        capture_output=True, text=True, cwd=tmp_path, env=environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mine:Hesitation: a link" in done.stdout
    assert "settings: algorithm.Hesitation.KEY=VALUE" in done.stdout
