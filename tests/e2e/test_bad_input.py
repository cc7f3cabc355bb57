"""What a user can get wrong ends with one clear line and exit code 2, never a traceback."""

import contextlib
import io
import json
import shutil

import pytest

from megatron_stare.cli import main
from megatron_stare.policy.step import Policy
from tests.e2e.processes import Running
from tests.e2e.programs import make_workspace, run_command, write_jsonl
from tests.models import edit_json

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("good"))


@pytest.fixture
def copy(workspace, tmp_path):
    """A copy of the good workspace to spoil; its config names files of the copy."""
    folder = tmp_path / "spoiled"
    shutil.copytree(workspace, folder)
    for config in folder.glob("*.yaml"):
        config.write_text(config.read_text().replace(str(workspace), str(folder)))
    return folder


def refused(*arguments) -> str:
    """Run a command in this process; it must return 2 and print one message, which is returned."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        assert main([str(argument) for argument in arguments]) == 2
    [message] = [line for line in errors.getvalue().splitlines() if "error:" in line]
    return message


def test_an_unknown_key_names_its_nearest(workspace):
    message = refused("train", workspace / "train.yaml", "optim.lrr=1")
    assert "optim.lrr: unknown key (value 1); did you mean optim.lr?" in message


def test_a_missing_model_folder(workspace):
    assert "no/such/model" in refused("train", workspace / "train.yaml", "model.path=no/such/model")


def test_a_missing_weight_shard(copy):
    shard = sorted((copy / "model").glob("model-*.safetensors"))[1]
    shard.unlink()
    assert shard.name in refused("train", copy / "train.yaml")


def test_a_truncated_weight_shard(copy):
    shard = sorted((copy / "model").glob("model-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    assert shard.name in refused("train", copy / "train.yaml")


def test_a_config_that_is_not_that_of_the_weights(copy):
    edit_json(copy / "model" / "config.json", intermediate_size=96)
    message = refused("train", copy / "train.yaml")
    assert "mlp.gate_proj.weight has shape [80, 48], expected [96, 48]" in message


def test_heads_that_tensor_parallelism_does_not_divide(workspace):
    message = refused("train", workspace / "train.yaml", "parallel.tensor=3")
    assert "parallel.tensor=3 does not divide the model's 8 attention heads" in message


def test_kv_heads_that_tensor_parallelism_neither_divides_nor_multiplies(copy):
    edit_json(copy / "model" / "config.json", num_attention_heads=12, intermediate_size=96)
    message = refused("train", copy / "train.yaml", "parallel.tensor=6")
    expected = (
        "parallel.tensor=6: expected a divisor or a multiple of the model's 4 key-value heads"
    )
    assert expected in message


def test_layers_that_pipeline_parallelism_does_not_divide(workspace):
    assert "parallel.pipeline=3" in refused(
        "train", workspace / "train.yaml", "parallel.pipeline=3"
    )


def test_layers_that_model_chunks_do_not_divide(workspace):
    layout = ["parallel.pipeline=2", "parallel.virtual_pipeline=3"]
    message = refused("train", workspace / "train.yaml", *layout)
    assert "parallel.pipeline=2 x parallel.virtual_pipeline=3 does not divide" in message


def test_model_chunks_without_pipeline_stages(workspace):
    message = refused("train", workspace / "train.yaml", "parallel.virtual_pipeline=2")
    assert "parallel.virtual_pipeline=2 needs parallel.pipeline > 1, found 1" in message


def test_a_world_that_replicas_do_not_fill(workspace):
    message = refused("train", workspace / "train.yaml", "parallel.tensor=2")
    assert "world size 1 does not fit parallel.tensor=2 x parallel.context=1" in message


def test_a_context_that_does_not_divide_the_world(workspace):
    message = refused("train", workspace / "train.yaml", "parallel.context=3")
    assert "parallel.context=3 x parallel.pipeline=1: expected a multiple of 3" in message


def test_experts_over_more_processes_than_a_stage_has(tmp_path):
    workspace = make_workspace(tmp_path, "qwen3_moe")
    message = refused("train", workspace / "train.yaml", "parallel.expert=2")
    assert "parallel.expert=2 does not divide the 1 processes of a pipeline stage" in message


def test_tied_experts_on_servers_that_do_not_tie_them(tmp_path):
    workspace = make_workspace(tmp_path, "qwen3_moe")
    edit_json(workspace / "model" / "config.json", tie_word_embeddings=True)
    servers = ("rollout.engine=sglang", 'rollout.servers.urls=["http://127.0.0.1:9"]')
    message = refused("train", workspace / "train.yaml", "rollout.replay_path=null", *servers)
    assert "tie_word_embeddings=true, expected false with rollout.engine=sglang" in message


def test_sequences_longer_than_the_models_positions(workspace):
    message = refused(
        "train",
        workspace / "train.yaml",
        "rollout.max_response_tokens=500",
        "train.max_tokens_per_micro_batch=1000",
    )
    assert "= 516 tokens" in message
    assert "max_position_embeddings=512" in message


def test_a_tokenizer_larger_than_the_models_vocabulary(copy):
    edit_json(copy / "model" / "config.json", vocab_size=200)
    assert "expected ids below config.json's vocab_size=200" in refused(
        "train", copy / "train.yaml"
    )


def test_a_tokenizer_without_an_end_of_sequence(copy):
    edit_json(copy / "model" / "tokenizer_config.json", eos_token=None)
    assert "eos" in refused("train", copy / "train.yaml")


def test_a_chat_template_asked_of_a_tokenizer_without_one(copy):
    (copy / "model" / "chat_template.jinja").unlink()
    assert "chat template" in refused("train", copy / "train.yaml", "data.template=chat")


def test_empty_data(copy):
    (copy / "prompts.jsonl").write_text("")
    assert "prompts.jsonl" in refused("train", copy / "train.yaml")


def test_a_field_that_no_row_has(workspace):
    message = refused("train", workspace / "train.yaml", "data.prompt_field=question")
    assert "question" in message
    assert "answer" in message


def test_prompts_that_are_all_too_long(workspace):
    message = refused("train", workspace / "train.yaml", "data.max_prompt_tokens=2")
    assert "0 of 12 rows used; left out: 12 over 2 tokens" in message


def test_a_prompt_over_the_limit_by_name(workspace):
    message = refused(
        "train",
        workspace / "train.yaml",
        "data.max_prompt_tokens=2",
        "data.on_long_prompt=error",
    )
    assert "prompts.jsonl:1" in message
    assert "max_prompt_tokens=2" in message


def test_truncated_sampling_with_the_engines_surprisal(workspace):
    message = refused(
        "train", workspace / "train.yaml", "rollout.top_p=0.9", "algorithm.stare.surprisal=rollout"
    )
    assert "algorithm.stare measures entropy by the engine's log-probs" in message
    assert "with rollout.top_p=0.9" in message


@pytest.mark.parametrize(
    ("needs", "key"),
    [
        ("algorithm.links=[grpo, tis]", "algorithm.tis"),
        ("algorithm.links=[grpo, stare, icepop]", "algorithm.icepop"),
        ("algorithm.stare.surprisal=rollout", "algorithm.stare"),
    ],
)
def test_samples_without_the_engines_log_probs_where_they_are_needed(copy, monkeypatch, needs, key):
    """Before the policy looks at any of them."""
    monkeypatch.delattr(Policy, "score")
    monkeypatch.delattr(Policy, "update")
    message = refused("train", copy / "train.yaml", needs)
    assert f"{key}: the samples have no log-probs" in message


def test_a_verifier_that_cannot_be_imported(workspace):
    assert "no_such_module" in refused(
        "train", workspace / "train.yaml", "reward.kind=no_such_module:judge"
    )


def test_groups_without_any_signal_end_the_run_with_counts(copy):
    rows = [json.loads(line) for line in (copy / "replay.jsonl").read_text().splitlines()]
    write_jsonl(copy / "replay.jsonl", [row | {"response": "no idea"} for row in rows])
    assert "max_rounds" in refused("train", copy / "train.yaml")


def test_a_program_exits_with_2_and_no_traceback(workspace):
    done = run_command("train", workspace / "train.yaml", "optim.lr=fast")
    assert done.returncode == 2
    assert done.stderr.count("megatron-stare: error") == 1
    assert "Traceback" not in done.stderr


def test_an_error_of_rank_zero_is_printed_once_and_ends_every_rank(copy, tmp_path):
    (copy / "prompts.jsonl").write_text("")
    with Running.start(tmp_path / "run", copy / "train.yaml", processes=2) as running:
        assert running.wait() == 2
    assert running.log.read_text().count("megatron-stare: error") == 1
