"""The config: differences in, a frozen checked config out, one clear line per mistake."""

from pathlib import Path

import pytest
import yaml

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.evaluation import EvalConfig
from megatron_stare.config.pivots import PivotsConfig
from megatron_stare.config.prefer import PreferConfig
from megatron_stare.config.sft import SftConfig
from megatron_stare.config_io import describe, load_config, to_yaml
from megatron_stare.errors import UserError

SMALLEST = {"model": {"path": "m"}, "data": {"path": "d.jsonl"}}


@pytest.fixture
def config_file(tmp_path):
    def write(tree) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
        return path

    return write


def test_a_file_of_differences_is_enough(config_file):
    config = load_config(TrainConfig, config_file(SMALLEST))
    assert config.rollout.prompts_per_step == 64
    assert list(config.algorithm.links) == ["grpo", "stare"]


def test_dotted_overrides_win_over_the_file_and_parse_as_yaml(config_file):
    path = config_file({**SMALLEST, "optim": {"lr": 1e-5}})
    config = load_config(
        TrainConfig, path, ["optim.lr=2e-6", "algorithm.method=grpo", "eval.data.path=h.jsonl"]
    )
    assert config.optim.lr == 2e-6
    assert list(config.algorithm.links) == ["grpo"]
    assert config.eval.data is not None
    assert config.eval.data.path == Path("h.jsonl")


def test_the_resolved_config_is_a_config_again(config_file):
    config = load_config(TrainConfig, config_file(SMALLEST), ["train.steps=7"])
    assert load_config(TrainConfig, config_file(to_yaml(config))) == config


def test_a_config_cannot_be_changed_after_it_was_checked(config_file):
    config = load_config(TrainConfig, config_file(SMALLEST))
    with pytest.raises(Exception, match="frozen"):
        config.optim.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learning_rate=1", r"optim\.learning_rate: unknown key \(value 1\)"),
        ("optim.lrr=1", r"did you mean optim\.lr\?"),
        ("algorithm.stare.top_shar=0.2", r"did you mean algorithm\.stare\.top_share\?"),
        ("rollut.temperature=1", r"rollut: unknown key .*did you mean rollout\?"),
        ("optim.lr=fast", r"optim\.lr: .*number.*found 'fast'"),
        ("optim.lr=-1", r"optim\.lr: .*greater than 0, found -1"),
        ("optim.min_lr=1", r"min_lr=1\.0 exceeds lr"),
        ("rollout.top_p=1.5", r"rollout\.top_p: .*less than or equal to 1, found 1\.5"),
        ("algorithm.method=ppo", r"algorithm: method='ppo': expected one of grpo, dr_grpo, rloo"),
        ("train.updates_per_step=5", r"updates_per_step=5 does not divide .*prompts_per_step=64"),
        ("rollout.engine=replay", r"engine='replay' with replay_path=None"),
        ("algorithm.kl.estimator=k4", r"algorithm: kl is in no chain: add it, terms=\[kl\]"),
        (
            "algorithm.terms=[kl_cov_penalty]",
            "algorithm: kl_cov_penalty reads the marks of kl_cov: expected that among links",
        ),
        (
            "algorithm.links=[stare]",
            r"algorithm\.links=\[stare\]: none of them makes advantages.* expected a baseline",
        ),
        (
            "algorithm.filters=[{fall_back: {guide_gate: 2}}]",
            r"algorithm\.fall_back puts guides .* expected guide_gradient among algorithm\.terms",
        ),
        ("parallel.sequence=true", r"parallel\.sequence=true needs parallel\.tensor > 1"),
        ("parallel.virtual_pipeline=2", r"virtual_pipeline=2 needs parallel\.pipeline > 1"),
        ("train.max_tokens_per_micro_batch=100", r"=100 cannot hold one sample .*= 2048"),
        ("data.template=plain", r"template='plain' needs '\{prompt\}', or must be 'chat'"),
        ("reward.overlong_buffer_tokens=2000", r"overlong_buffer_tokens=2000 exceeds"),
        ("model=3", r"model: .*found 3"),
        ("nonsense", r"override 'nonsense': expected section\.key=value"),
        ("optim.lr=[1", r"'\[1' is not a YAML value"),
    ],
)
def test_a_mistake_names_key_value_and_expectation(config_file, override, message):
    with pytest.raises(UserError, match=message):
        load_config(TrainConfig, config_file(SMALLEST), [override])


@pytest.mark.parametrize(
    ("kind", "budget", "message"),
    [
        (TrainConfig, "train", r"cannot hold one sample .*= 2048 \(2052 padded for .*context=3\)"),
        (SftConfig, "sft", r"data\.max_tokens=2048 \(2052 padded for .*context=3\) exceeds sft"),
        (PreferConfig, "prefer", r"data\.max_tokens=2048 \(2052 padded .*\) exceeds prefer"),
    ],
)
def test_a_budget_holds_the_longest_sample_as_context_parallelism_pads_it(
    config_file, kind, budget, message
):
    path, key = config_file(SMALLEST), f"{budget}.max_tokens_per_micro_batch"
    load_config(kind, path, [f"{key}=2048"])
    load_config(kind, path, [f"{key}=2052", "parallel.context=3"])
    with pytest.raises(UserError, match=message):
        load_config(kind, path, [f"{key}=2051", "parallel.context=3"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithm.method=grpo"], r"algorithm: method='grpo': .*compare pairs, expected one"),
        (["eval.every=5"], r"eval\.every=5 without eval\.data"),
        (["eval.data.path=e", "eval.data.max_tokens=9000"], r"eval\.data\.max_tokens=9000 exceeds"),
        (["data.rejected_field=chosen"], r"rejected_field='chosen' is chosen_field too"),
        (["algorithm.simpo.beta=-1"], r"algorithm\.simpo\.beta"),
        (["train.steps=1"], r"train: unknown key"),
    ],
)
def test_what_pairs_cannot_be_learned_with_is_refused(config_file, overrides, message):
    path = config_file(SMALLEST)
    assert load_config(PreferConfig, path).algorithm.method == "dpo"
    with pytest.raises(UserError, match=message):
        load_config(PreferConfig, path, overrides)


def test_samples_of_a_prompt_come_one_after_another_where_no_group_is_stopped(config_file):
    path = config_file(SMALLEST)
    load_config(TrainConfig, path, ["algorithm.method=v05"])
    with pytest.raises(UserError, match=r"rollout\.oversampling=1\.5: expected 1"):
        load_config(TrainConfig, path, ["algorithm.method=v05", "rollout.oversampling=1.5"])
    load_config(
        TrainConfig,
        path,
        ["algorithm.method=v05", "algorithm.v05.first=0", "rollout.oversampling=1.5"],
    )


@pytest.mark.parametrize("cut", ["rollout.top_p=0.9", "rollout.top_k=50"])
def test_truncated_sampling_cannot_rank_by_the_engines_surprisal(config_file, cut):
    with pytest.raises(UserError, match=r"algorithm\.stare .*top_p=.*renormalises"):
        load_config(TrainConfig, config_file(SMALLEST), [cut, "algorithm.stare.surprisal=rollout"])
    grpo = [cut, "algorithm.stare.surprisal=rollout", "algorithm.method=grpo"]
    assert not load_config(TrainConfig, config_file(SMALLEST), grpo).needs


def test_a_missing_key_is_named(config_file):
    with pytest.raises(UserError, match=r"data: missing"):
        load_config(TrainConfig, config_file({"model": {"path": "m"}}))


def test_every_mistake_is_reported_at_once(config_file):
    with pytest.raises(UserError, match=r"(?s)optim\.lrr.*train\.step:"):
        load_config(TrainConfig, config_file(SMALLEST), ["optim.lrr=1", "train.step=1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not valid YAML"), ("- 1", "expected a mapping of sections, found list")],
)
def test_a_malformed_file_is_named(config_file, text, message):
    with pytest.raises(UserError, match=rf"run\.yaml: .*{message}"):
        load_config(TrainConfig, config_file(text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.yaml: cannot read the config"):
        load_config(TrainConfig, tmp_path / "absent.yaml")


@pytest.mark.parametrize("kind", [TrainConfig, SftConfig, PreferConfig, EvalConfig, PivotsConfig])
def test_every_key_is_documented(kind):
    rows = list(describe(kind))
    assert len({key for key, *_ in rows}) == len(rows)
    assert [key for key, _, _, text in rows if not text] == []
