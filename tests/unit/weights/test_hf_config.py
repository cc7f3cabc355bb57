"""`read_hf_config`: every spelling of the supported families, and a clear refusal of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_stare.config.policy import ParallelConfig
from megatron_stare.errors import UserError
from megatron_stare.model_shape import ModelShape, MoeShape
from megatron_stare.weights.hf_config import read_hf_config
from tests.models import FAMILIES, tiny_config
from tests.unit.weights.published import LLAMA3_SCALING, QWEN25_32B, YARN, write


def tiny(folder: Path, family: str, **overrides) -> Path:
    tiny_config(family, **overrides).save_pretrained(folder)
    return folder


def test_published_qwen25_32b(tmp_path):
    assert read_hf_config(write(tmp_path, QWEN25_32B)) == ModelShape(
        family="qwen2",
        hidden_size=5120,
        num_layers=64,
        num_heads=40,
        num_kv_heads=8,
        head_dim=128,
        ffn_size=27648,
        vocab_size=152064,
        rms_eps=1e-5,
        rope_theta=1e6,
        rope_scaling=None,
        max_positions=131072,
        tied=False,
        qkv_bias=True,
        o_bias=False,
        mlp_bias=False,
        qk_norm=False,
        raw=QWEN25_32B,
    )


MOE = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 768,
}


@pytest.mark.parametrize("spelling", ["num_experts", "num_local_experts"])
def test_experts_in_both_spellings(tmp_path, spelling):
    config = QWEN25_32B | MOE | {"norm_topk_prob": True}
    config[spelling] = config.pop("num_experts")
    shape = read_hf_config(write(tmp_path, config))
    assert shape.moe == MoeShape(num_experts=8, experts_per_token=2, normalize=True)
    assert (shape.ffn_size, shape.qk_norm, shape.qkv_bias) == (768, True, False)


@pytest.mark.parametrize(
    ("family", "layout", "message"),
    [
        ("qwen3_moe", {"expert": 3}, "parallel.expert=3 does not divide the model's 8 experts"),
        ("qwen3", {"expert": 2}, "parallel.expert=2 needs a mixture of experts"),
        (
            "qwen3_moe",
            {"tensor": 2},
            "parallel.tensor=2 of a mixture of experts needs parallel.sequence=true",
        ),
    ],
)
def test_layouts_that_do_not_suit_the_experts(tmp_path, family, layout, message):
    shape = read_hf_config(tiny(tmp_path, family))
    with pytest.raises(UserError, match=message):
        shape.check_parallel(ParallelConfig(**layout))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_writes(tmp_path, family):
    shape = read_hf_config(tiny(tmp_path, family, tied=True))
    assert (shape.family, shape.head_dim, shape.num_kv_heads) == (family, 8, 4)
    assert (shape.rope_theta, shape.rope_scaling, shape.tied) == (20_000.0, None, True)
    assert shape.qkv_bias == (family == "qwen2")
    assert shape.qk_norm == (family in ("qwen3", "qwen3_moe"))
    assert (shape.moe is not None) == (family == "qwen3_moe")
    assert not shape.o_bias
    assert not shape.mlp_bias


MISTRAL_7B_V03 = {
    "architectures": ["MistralForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32768,
}


def test_published_mistral(tmp_path):
    shape = read_hf_config(write(tmp_path, MISTRAL_7B_V03))
    assert (shape.family, shape.head_dim, shape.num_kv_heads) == ("mistral", 128, 8)
    biases = shape.qkv_bias, shape.o_bias, shape.mlp_bias
    assert not any((*biases, shape.qk_norm))


@pytest.mark.parametrize("window", [{"sliding_window": 4096}, {}], ids=["said", "by default"])
def test_a_mistral_with_a_window_is_refused(tmp_path, window):
    config = {key: MISTRAL_7B_V03[key] for key in MISTRAL_7B_V03 if key != "sliding_window"}
    with pytest.raises(UserError, match=r"sliding_window=4096 is not supported; expected null"):
        read_hf_config(write(tmp_path, config | window))


def test_distilled_deepseek_is_a_qwen2(tmp_path):
    """As published: explicit defaults, and `use_mrope`, which means nothing without images."""
    published = QWEN25_32B | {"use_mrope": False, "bos_token_id": 151646, "eos_token_id": 151643}
    distilled = read_hf_config(write(tmp_path, published))
    assert distilled.qkv_bias
    assert distilled.num_layers == 64


def test_biases_that_a_config_can_switch_on(tmp_path):
    llama = read_hf_config(tiny(tmp_path, "llama", attention_bias=True, mlp_bias=True))
    assert llama.qkv_bias
    assert llama.o_bias
    assert llama.mlp_bias
    qwen3 = read_hf_config(tiny(tmp_path, "qwen3", attention_bias=True))
    assert qwen3.qkv_bias
    assert qwen3.o_bias
    assert not qwen3.mlp_bias


def test_keys_that_old_configs_leave_out(tmp_path):
    absent = ("num_key_value_heads", "rope_theta", "tie_word_embeddings", "rms_norm_eps")
    old = {key: value for key, value in QWEN25_32B.items() if key not in absent}
    shape = read_hf_config(write(tmp_path, old | {"model_type": "llama"}))
    assert (shape.num_kv_heads, shape.rope_theta, shape.tied) == (40, 10_000.0, False)
    assert (shape.rms_eps, shape.qkv_bias) == (1e-6, False)
    assert read_hf_config(write(tmp_path, old | {"model_type": "qwen3"})).head_dim == 128


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "gpt2"},
            "model_type='gpt2' is not supported; expected one of qwen2, qwen3",
        ),
        ({"model_type": None}, "model_type=None is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu': input should be 'silu'"),
        ({"use_sliding_window": True}, "use_sliding_window=true is not supported"),
        ({"layer_types": ["sliding_attention"]}, "layer_types.0='sliding_attention'"),
        (
            {"num_key_value_heads": 7},
            "num_key_value_heads=7 does not divide num_attention_heads=40",
        ),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "5120"}, "hidden_size='5120': input should be a valid integer"),
        (
            {"vocab_size": 2**40},
            "vocab_size=1099511627776: input should be less than or equal to 100000000",
        ),
        (
            {"rope_parameters": {"type": "linear", "rope_type": "yarn", "factor": 2.0}},
            "rope_type='yarn' with type='linear'; expected one of them",
        ),
        (
            {"num_hidden_layers": 0},
            "num_hidden_layers=0: input should be greater than or equal to 1",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"quantization_config": {"bits": 4}}, "quantization_config={'bits': 4}"),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "rope_type='dynamic' is not supported",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_type='linear' with parameters []"),
        ({"rope_parameters": {"full_attention": {}}}, "with parameters ['full_attention']"),
        ({"rope_scaling": YARN | {"factor": "4"}}, "factor='4': input should be a valid number"),
        ({"rope_scaling": YARN | {"factor": float("nan")}}, "factor=nan: input should be a finite"),
        ({"rope_scaling": YARN | {"attn_factor": True}}, "attn_factor=True: input should be a val"),
        ({"rope_scaling": YARN | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        (
            {"rope_scaling": LLAMA3_SCALING | {"type": "llama3", "low_freq_factor": 4.0}},
            "low_freq_factor=4.0 is no less than high_freq_factor=4.0",
        ),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps=inf: input should be a finite number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000: input should be less than"),
        ({"head_dim": 7}, "head_dim=7 is odd"),
        (MOE | {"num_experts": None}, "num_experts is missing"),
        (MOE | {"decoder_sparse_step": 2}, "decoder_sparse_step=2: input should be 1"),
        (MOE | {"mlp_only_layers": [0]}, "mlp_only_layers=[0]"),
        (MOE | {"num_experts_per_tok": 9}, "num_experts_per_tok=9 exceeds num_experts=8"),
        (
            MOE | {"num_experts_per_tok": 1, "norm_topk_prob": True},
            "num_experts_per_tok=1 with norm_topk_prob=true",
        ),
    ],
)
def test_what_is_not_implemented_is_refused(tmp_path, change, message):
    config = {key: value for key, value in (QWEN25_32B | change).items() if value is not None}
    with pytest.raises(UserError) as error:
        read_hf_config(write(tmp_path, config))
    assert message in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}/config.json: ")
    assert "\n" not in str(error.value)


def test_a_folder_without_a_readable_config_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file; expected a Hugging Face model folder"):
        read_hf_config(tmp_path / "absent")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        read_hf_config(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"not valid JSON \(too many levels\)"):
        read_hf_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="as a JSON object, found list"):
        read_hf_config(tmp_path)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"tensor": 3}, "parallel.tensor=3 does not divide the model's 8 attention heads"),
        ({"tensor": 16}, "parallel.tensor=16 does not divide the model's 8 attention heads"),
        ({"pipeline": 3}, "parallel.pipeline=3 does not divide the model's 4 layers"),
        (
            {"pipeline": 2, "virtual_pipeline": 4},
            "parallel.pipeline=2 x parallel.virtual_pipeline=4 does not divide the model's 4 lay",
        ),
    ],
)
def test_layouts_that_do_not_divide_the_network(tmp_path, layout, message):
    shape = read_hf_config(tiny(tmp_path, "qwen3"))
    shape.check_parallel(ParallelConfig(tensor=4, pipeline=2, virtual_pipeline=2))
    with pytest.raises(UserError, match=message):
        shape.check_parallel(ParallelConfig(**layout))


@pytest.mark.parametrize(("kv_heads", "fits", "other"), [(4, (2, 4, 12), 6), (6, (3, 6, 12), 4)])
def test_tensor_parallelism_and_kv_heads_divide_one_by_the_other(tmp_path, kv_heads, fits, other):
    network = {"num_attention_heads": 12, "head_dim": 12, "intermediate_size": 96}
    shape = read_hf_config(tiny(tmp_path, "qwen3", num_key_value_heads=kv_heads, **network))
    for size in fits:
        shape.check_parallel(ParallelConfig(tensor=size))
    message = (
        f"parallel.tensor={other}: expected a divisor or a multiple of the model's {kv_heads} key-v"
    )
    with pytest.raises(UserError, match=message):
        shape.check_parallel(ParallelConfig(tensor=other))


def test_ranks_that_share_kv_heads_hold_equally_many_rows(tmp_path):
    network = {"num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 28}
    shape = read_hf_config(tiny(tmp_path, "qwen2", **network))
    message = "parallel.tensor=14 does not divide the model's 144 rows of queries, keys and values"
    with pytest.raises(UserError, match=message):
        shape.check_parallel(ParallelConfig(tensor=14))


def test_ffn_channels_are_divided_too(tmp_path):
    shape = read_hf_config(tiny(tmp_path, "qwen3", intermediate_size=82))
    with pytest.raises(UserError, match="82 FFN channels"):
        shape.check_parallel(ParallelConfig(tensor=4, pipeline=1))
