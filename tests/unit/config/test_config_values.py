"""Values of a config: numbers are finite, bounded and no truth values; paths are where they say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.evaluation import EvalConfig
from megatron_stare.config.pivots import PivotsConfig
from megatron_stare.config.prefer import PreferConfig
from megatron_stare.config.sft import SftConfig
from megatron_stare.config_io import describe, load_config, to_yaml
from megatron_stare.config_words import bounds_of
from megatron_stare.errors import UserError
from megatron_stare.plan.hardware import Assumptions
from megatron_stare.system.values import scalar_types

SMALLEST = "model: {path: m}\ndata: {path: d.jsonl}\n"


@pytest.fixture
def load(tmp_path):
    def load(text: str = "", *overrides: str) -> TrainConfig:
        path = tmp_path / "run.yaml"
        path.write_text(SMALLEST + text)
        return load_config(TrainConfig, path, overrides)

    return load


def value_of(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("optim.lr=1e-6", 1e-6),
        ("optim.lr='2e-6'", 2e-6),
        ("optim.lr=1", 1.0),
        ("train.steps='7'", 7),
        ("train.steps=1_000", 1000),
        ("train.steps=2.0", 2),
        ("algorithm.correct_stale=no", False),
        ("algorithm.correct_stale='true'", True),
        ("eval.max_prompts=~", None),
        ("data.prompt_field=2026-11-29", "2026-11-29"),
        ("data.prompt_field=017", "017"),
        ("train.steps=1e3", 1000),
        ("data.template={prompt}", "{prompt}"),
        ("data.template=Q: {prompt} #1\\n", "Q: {prompt} #1\\n"),
        ('data.template="{prompt}\\n"', "{prompt}\n"),
        ("data.system_prompt=null", None),
        ("rollout.servers.weights_dir=~", None),
    ],
)
def test_values_that_are_what_they_look_like(load, override, value):
    found = value_of(load("", override), override.partition("=")[0])
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("eval.every=5", r"eval: every=5 without data or sets: nothing would be"),
        ("data.answer_field=prompt", r"answer_field='prompt' is prompt_field too"),
        ("checkpoint.keep_every=50", r"keep_every=50 with every=20: expected a multiple"),
        ("checkpoint={every: 0, keep_every: 5}", r"keep_every=5 with every=0: expected a multiple"),
        ("optim.min_lr=1e-7", r"min_lr=1e-07 with decay='constant': the rate never falls to it"),
        ("rollout.samples_per_prompt=1", r"samples_per_prompt=1 with dynamic_sampling=true"),
        ("rollout.top_k=1", r"top_k=1 with dynamic_sampling=true: no group would have samples"),
        ("run.dir=./m", r"run\.dir=m with model\.path=m: the run would write over the model"),
        ("model.path=runs/default/hf/final", r"run\.dir=runs/default with model\.path=.*over the"),
        ("reward.format_pattern=a{99999999999}", r"format_pattern: expected a regular expression"),
        ("train.steps=1e-3", r"train\.steps: .*integer.*found '1e-3'"),
        ("lr=1e-6", r"lr: unknown key .*did you mean optim\.lr\?"),
        ("data.path=", r"data: path=null with sources=\[\]: expected a path, or sources by name"),
        ("model.path=", r"model\.path: expected a path, found null"),
        ("data.prompt_field=[a]", r"prompt_field: expected text, found \['a'\]"),
        ("optim=3", r"optim: expected a section of keys, found 3"),
        ("reward.kind=maths", r"reward\.kind: expected one of math, exact, or a function"),
        ("reward.kind=package.module", r"reward\.kind: expected one of math, exact, or a function"),
        ("reward.format_pattern=(a", r"format_pattern: expected a regular expression, found '\(a'"),
        ("reward.format_reward=0.5", r"format_reward=0\.5 with format_pattern=null"),
        ("rollout.servers.api_key_env=A B", r"api_key_env: expected a variable's name"),
        ("rollout.servers.sync_host=a b", r"sync_host: expected a machine's name or address"),
        ("rollout.servers.restart_command=['']", r"restart_command=\[''\]: expected a program"),
        ("rollout.servers.urls=[http://a:99999]", r"urls has 'http://a:99999', expected scheme"),
        ("rollout.servers.urls=['http://a b:1']", r"urls has 'http://a b:1', expected scheme"),
        ("rollout.servers.urls=['http://a:1?b']", r"urls has 'http://a:1\?b', expected scheme"),
        ("slurm.sweep=[run.dir=a]", r"sweep has 'run\.dir=a', expected keys of a run"),
        ("train.steps=true", r"train\.steps: expected a number, found true"),
        ("optim.lr=no", r"optim\.lr: expected a number, found false"),
        ("eval.max_prompts=yes", r"eval\.max_prompts: expected a number, found true"),
        ("algorithm.correct_stale=1", r"correct_stale: expected true or false, found 1"),
        ("algorithm.stare.adaptive=0.0", r"stare\.adaptive: expected true or false, found 0\.0"),
        ("algorithm.stare.adaptive='1'", r"stare\.adaptive: expected true or false, found '1'"),
        ("train.steps=017", r"train\.steps: expected a number without leading zeros.*found 017"),
        ("optim.lr=08", r"optim\.lr: expected a number without leading zeros.*found 08"),
        ("slurm.hours=3:20", r"slurm\.hours: .*number.*found '3:20'"),
        ("optim.lr=.inf", r"optim\.lr: .*finite number, found inf"),
        ("optim.lr=inf", r"optim\.lr: .*finite number, found 'inf'"),
        ("optim.lr=1e400", r"optim\.lr: .*finite number, found '1e400'"),
        ("optim.eps=-.inf", r"optim\.eps: .*finite number, found -inf"),
        ("reward.format_reward=.nan", r"format_reward: .*finite number, found nan"),
        ("algorithm.clip.high=.inf", r"algorithm\.clip\.high: .*finite number, found inf"),
        ("train.steps=.inf", r"train\.steps: .*finite number, found inf"),
        ("eval.max_prompts=.nan", r"max_prompts: .*finite number, found nan"),
        ("run.seed=0x" + "f" * 40, r"run\.seed: input should be less than"),
        ("train.steps=" + "9" * 5000, r"train\.steps: .*found '999"),
        ('data.system_prompt="a\\0b"', r"system_prompt: expected text without NUL"),
        ("algorithm.stare.top_share=0", r"stare\.top_share: .*greater than 0, found 0"),
        (
            "rollout={prompts_per_step: 100000, samples_per_prompt: 100000}",
            r"prompts_per_step=100000 x samples_per_prompt=100000: expected at most 10000000 sam",
        ),
    ],
)
def test_values_that_are_not(load, override, message):
    with pytest.raises(UserError, match=message) as error:
        load("", override)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_text_that_cannot_be_written_is_no_text():
    with pytest.raises(ValueError, match="expected text that UTF-8 can write"):
        EvalConfig.model_validate({"model": {"path": "\ud800"}, "eval": {}})


def numbers_of(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, set[str]]]:
    """Every key that takes numbers, in whatever it nests them, with its bounds."""
    for name, field in kind.model_fields.items():
        for candidate in (field.annotation, *get_args(field.annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                yield from numbers_of(candidate, f"{prefix}{name}.")
        if set(scalar_types(field.annotation)) & {int, float}:
            yield prefix + name, set(bounds_of(field.annotation, field.metadata))


@pytest.mark.parametrize("kind", [TrainConfig, SftConfig, PreferConfig, EvalConfig, PivotsConfig])
def test_every_number_has_bounds(kind):
    keys = list(numbers_of(kind))
    assert len(keys) > 10
    for key, bounds in keys:
        assert bounds & {"ge", "gt"}, key
        assert bounds & {"le", "lt"}, key


def test_help_says_in_words_what_a_key_takes():
    types = {key: type_ for key, type_, *_ in describe(TrainConfig)}
    assert types["train.steps"] == "whole number (>= 1, <= 1e+09)"
    assert types["eval.max_prompts"] == "whole number (>= 1, <= 1e+09), or null"
    assert types["optim.lr"] == "number (> 0, <= 10)"
    assert types["reward.deadline_s"] == "number (>= 0.001, <= 1e+06), seconds"
    assert types["slurm.environment"] == "texts by name"
    assert types["data.sources"] == "sections by name"
    assert types["rollout.servers.restart_command"] == "list of text, or null"
    assert types["algorithm.kl.estimator"] == "k1, k2 or k3"


def test_of_overrides_of_one_key_the_last_counts(load):
    config = load("optim: {lr: 1.0e-5}", "optim.lr=3e-5", "optim.lr=2e-5")
    assert config.optim.lr == 2e-5
    assert load("", "optim.lr=3e-5", "optim={eps: 1e-6}").optim.lr == 1e-6, "the default"


def test_secrets_are_written_nowhere_but_in_the_jobs_script(load):
    config = load("", "slurm.environment={WANDB_API_KEY: abc}")
    assert config.slurm.environment == {"WANDB_API_KEY": "abc"}
    assert "abc" not in to_yaml(config)
    assert "abc" not in config.model_dump_json()


def test_an_override_of_one_alias_leaves_the_others(load):
    config = load("reward: {kind: exact}\neval: {data: &d {path: a}}\n", "eval.data.path=b")
    assert config.eval.data is not None
    assert (config.data.path, config.eval.data.path) == (Path("d.jsonl"), Path("b"))


def test_an_override_does_not_replace_what_is_no_section(load):
    with pytest.raises(UserError, match=r"override 'optim\.lr=1': optim is 5, expected a section"):
        load("optim: 5", "optim.lr=1")


PATHS = [key for key, type_, *_ in describe(TrainConfig) if type_.startswith("path")]


def test_paths_are_found():
    assert {"run.dir", "model.path", "slurm.rollout.python"} <= set(PATHS)
    assert {"eval.data.path", "rollout.servers.registry"} <= set(PATHS)


@pytest.mark.parametrize("key", PATHS)
def test_home_and_variables_are_replaced_in_every_path(load, monkeypatch, key):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    together = {
        "rollout.replay_path": ["rollout.engine=replay"],
        "rollout.servers.registry": ["rollout.engine=sglang"],
        "data.sources.NAME.path": ["data.path=null"],
        "eval.data.sources.NAME.path": ["eval.data.path=null"],
    }.get(key, [])
    for text, path in (
        ("~/x", "/home/me/x"),
        ("$HOME/x", "/home/me/x"),
        ("${SCRATCH}/x", "/scratch/me/x"),
        ("a/$SCRATCH", "a//scratch/me"),
        ("./~", "~"),
        ("a~b/c$d", "a~b/c$d"),
    ):
        config = load("", f"{key}={text}", *together)
        assert value_of(config, key) == Path(path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("$NOWHERE_AT_ALL/x", r"\$NOWHERE_AT_ALL is not set in the environment"),
        ("runs/${NOWHERE_AT_ALL}", r"\$\{NOWHERE_AT_ALL\} is not set in the environment"),
        ("~nobody-of-this-name/x", r"~nobody-of-this-name is no user's home"),
        ('""', r"expected a path"),
        ('"a\\0b"', r"without NUL"),
        ("x" * 256, r"at most 3000 bytes, and 255 between slashes, found 256 and 256"),
        ("x/" * 2500, r"at most 3000 bytes"),
    ],
)
@pytest.mark.parametrize("key", ["run.dir", "rollout.servers.weights_dir"])
def test_paths_that_cannot_be(load, key, path, message):
    with pytest.raises(UserError, match=rf"{key}: .*{message}"):
        load("", f"{key}={path}")


def test_what_a_script_or_a_program_is_started_by_is_expanded_too(load, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    servers = "rollout: {engine: sglang, servers: {urls: ['http://a:1'], restart_command: "
    config = load(
        servers + "[~/restart, '{url}', $HOME]}}",
        "slurm.container=~/image.sqsh",
        "slurm.environment={HF_HOME: $HOME/hf}",
    )
    assert config.rollout.servers.restart_command == ("/home/me/restart", "{url}", "$HOME")
    assert config.slurm.container == "/home/me/image.sqsh"
    assert config.slurm.environment == {"HF_HOME": "/home/me/hf"}
    for refused in ("slurm.options=[--output=~/x]", "slurm.options=[--chdir=$HOME]"):
        with pytest.raises(UserError, match=r"expected --name=value without spaces, ~ or \$"):
            load("", refused)
    with pytest.raises(UserError, match=r"expected FROM:TO without spaces, quotes, ~ or \$"):
        load("", "slurm.container=x", "slurm.mounts=[~/data:/data]")


def test_the_message_is_short_whatever_the_value(load, tmp_path):
    with pytest.raises(UserError) as error:
        load("".join(f"token{i}: {'x' * 200}\n" for i in range(4_000)))
    assert "and 3,990 problems more" in str(error.value)
    assert len(str(error.value)) < 10_000
    with pytest.raises(UserError, match=r"\\x1b"):
        load('"\\e[31m": 1')
    huge = tmp_path / "huge.yaml"
    huge.write_text("# " + "x" * (1 << 20))
    with pytest.raises(UserError, match="expected a config, found more than"):
        load_config(TrainConfig, huge)
    with pytest.raises(UserError, match="a pipe or a device, and no file"):
        load_config(TrainConfig, Path("/dev/zero"))


def test_assumptions_are_finite():
    with pytest.raises(ValueError, match="finite"):
        Assumptions.model_validate({"reward_s": "inf"})
