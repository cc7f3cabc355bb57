"""The shape of the policy, read from a Hugging Face `config.json` and from nothing else.

Read directly rather than through transformers, so that what this project does not implement is
refused instead of being carried along, and both spellings of RoPE are understood: `rope_parameters`
(transformers 5) and `rope_scaling` with `rope_theta` (before).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from megatron_stare.errors import UserError
from megatron_stare.model_shape import FAMILIES, Family, ModelShape, MoeShape
from megatron_stare.system.json_file import read_object
from megatron_stare.system.reading import check_files
from megatron_stare.weights.rope_scaling import read_rope

_Channels = Annotated[int, Field(ge=1, le=1_000_000)]
"""What a network may have of something: far beyond those there are."""


class _HfConfig(BaseModel):
    """The keys of `config.json` that are read, with the defaults of their families."""

    model_config = ConfigDict(
        extra="ignore", strict=True, protected_namespaces=(), allow_inf_nan=False
    )

    model_type: Family
    hidden_act: Literal["silu"] = "silu"
    hidden_size: _Channels
    num_hidden_layers: int = Field(ge=1, le=10_000)
    num_attention_heads: _Channels
    num_key_value_heads: _Channels | None = None
    head_dim: _Channels | None = None
    intermediate_size: _Channels
    vocab_size: int = Field(ge=1, le=100_000_000)
    rms_norm_eps: float = Field(1e-6, gt=0, le=1)
    max_position_embeddings: int = Field(ge=1, le=1_000_000_000)
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    use_sliding_window: bool = False
    layer_types: list[Literal["full_attention"]] | None = None
    partial_rotary_factor: float = Field(1.0, ge=1, le=1)
    quantization_config: None = None
    rope_theta: float | None = Field(None, gt=0)
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None


class _MoeHfConfig(_HfConfig):
    """What a mixture of experts adds; transformers 5 writes `num_local_experts`."""

    num_experts: _Channels = Field(
        validation_alias=AliasChoices("num_experts", "num_local_experts")
    )
    num_experts_per_tok: _Channels
    moe_intermediate_size: _Channels
    norm_topk_prob: bool = False
    decoder_sparse_step: Literal[1] = 1
    mlp_only_layers: list[int] | None = Field(None, max_length=0)


class _MistralHfConfig(_HfConfig):
    """Mistral's own defaults: a `config.json` without `sliding_window` has one."""

    num_key_value_heads: _Channels | None = 8
    sliding_window: int | None = 4096
    attention_bias: Literal[False] = False


_CONFIGS: dict[str, type[_HfConfig]] = {"qwen3_moe": _MoeHfConfig, "mistral": _MistralHfConfig}
"""What reads the `config.json` of a family, where it is not `_HfConfig`."""


def read_hf_config(folder: Path) -> ModelShape:
    """Read `folder/config.json`.

    Raises:
        UserError: the folder or file is missing or malformed, the family is not supported, or the
            network uses something that is not implemented (sliding windows, other activations,
            quantised weights, other RoPE types, dense layers among those with experts), or the
            folder has a pipe in the place of a file.
    """
    check_files(folder)
    path = Path(folder) / "config.json"
    raw = read_object(path, "a Hugging Face model folder")
    if raw.get("model_type") not in FAMILIES:
        raise UserError(
            f"{path}: model_type={raw.get('model_type')!r} is not supported; "
            f"expected one of {', '.join(FAMILIES)}"
        )
    try:
        config = _CONFIGS.get(raw["model_type"], _HfConfig).model_validate(raw)
        theta, scaling = read_rope(
            config.rope_scaling or config.rope_parameters or {},
            theta=config.rope_theta,
            max_positions=config.max_position_embeddings,
        )
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error)}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return _shape(config, raw, path, theta, scaling)


def _shape(
    config: _HfConfig,
    raw: dict[str, Any],
    path: Path,
    rope_theta: float,
    rope_scaling: dict[str, Any] | None,
) -> ModelShape:
    family, heads = config.model_type, config.num_attention_heads
    kv_heads = config.num_key_value_heads or heads
    if heads % kv_heads:
        raise UserError(
            f"{path}: num_key_value_heads={kv_heads} does not divide num_attention_heads={heads}"
        )
    if family != "llama" and config.use_sliding_window:
        raise UserError(
            f"{path}: use_sliding_window=true is not supported; expected full attention"
        )
    if isinstance(config, _MistralHfConfig) and config.sliding_window is not None:
        raise UserError(
            f"{path}: sliding_window={config.sliding_window} is not supported; "
            "expected null (full attention)"
        )
    head_dim = config.head_dim or (128 if family == "qwen3" else config.hidden_size // heads)
    if head_dim % 2:
        raise UserError(f"{path}: head_dim={head_dim} is odd; rotations need pairs of channels")
    moe = _moe(config, path) if isinstance(config, _MoeHfConfig) else None
    return ModelShape(
        family=family,
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_size=config.moe_intermediate_size
        if isinstance(config, _MoeHfConfig)
        else config.intermediate_size,
        vocab_size=config.vocab_size,
        rms_eps=config.rms_norm_eps,
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        max_positions=config.max_position_embeddings,
        tied=config.tie_word_embeddings,
        # Qwen2 has biases on q, k, v whatever its config says; the others say so.
        qkv_bias=family == "qwen2" or config.attention_bias,
        o_bias=family != "qwen2" and config.attention_bias,
        mlp_bias=family == "llama" and config.mlp_bias,
        qk_norm=family in ("qwen3", "qwen3_moe"),
        raw=raw,
        moe=moe,
    )


def _moe(config: _MoeHfConfig, path: Path) -> MoeShape:
    chosen, normalize = config.num_experts_per_tok, config.norm_topk_prob
    if chosen > config.num_experts:
        raise UserError(
            f"{path}: num_experts_per_tok={chosen} exceeds num_experts={config.num_experts}"
        )
    if chosen == 1 and normalize:
        raise UserError(
            f"{path}: num_experts_per_tok=1 with norm_topk_prob=true leaves nothing to learn for "
            "the router; expected norm_topk_prob=false"
        )
    return MoeShape(config.num_experts, chosen, normalize)


def _explain(error: ValidationError) -> str:
    """The first problem on one line: key, value, expectation."""
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{key} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return message
    return f"{key}={repr(problem['input'])[:200]}: {message[0].lower()}{message[1:]}"
