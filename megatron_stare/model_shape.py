"""The shape of a network: all that its weights, its arithmetic and its layout depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from megatron_stare.config.policy import ParallelConfig
from megatron_stare.errors import UserError

Family = Literal["qwen2", "qwen3", "llama", "mistral", "qwen3_moe"]
FAMILIES: tuple[Family, ...] = ("qwen2", "qwen3", "llama", "mistral", "qwen3_moe")
"""Values of `model_type` that are understood; each has a table in `weights/names.py`."""


@dataclass(frozen=True, slots=True)
class MoeShape:
    """Experts, of which a router picks some for each token, in place of every layer's MLP."""

    num_experts: int
    experts_per_token: int
    normalize: bool
    """Whether the router's probabilities of a token's experts are scaled to sum to 1."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Everything about the network that its weights and its arithmetic depend on."""

    family: Family
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_size: int
    """Channels of the MLP, or of each expert."""
    vocab_size: int
    """True vocabulary, without padding."""
    rms_eps: float
    rope_theta: float
    rope_scaling: dict[str, Any] | None
    """None for plain RoPE; else `rope_type` (linear, llama3, yarn) and its parameters, with
    `original_max_position_embeddings` always present for llama3 and yarn."""
    max_positions: int
    tied: bool
    """Whether the output layer is the embedding."""
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    """RMSNorm over the head dimension of queries and keys."""
    raw: dict[str, Any]
    """The parsed `config.json`."""
    moe: MoeShape | None = None
    """None for a dense network."""

    def check_parallel(self, parallel: ParallelConfig) -> None:
        """Refuse a layout that cannot hold this network.

        Raises:
            UserError: tensor parallelism does not divide heads, FFN or the rows of queries, keys
                and values, or neither divides nor is a multiple of the KV heads; pipeline
                parallelism and its model chunks do not divide the layers, or expert parallelism
                does not divide the experts; tensor parallelism of experts without sequence
                parallelism, which Megatron does not train.
        """
        tensor = f"parallel.tensor={parallel.tensor}"
        experts = f"parallel.expert={parallel.expert}"
        chunks = f"parallel.pipeline={parallel.pipeline}"
        if parallel.virtual_pipeline > 1:
            chunks += f" x parallel.virtual_pipeline={parallel.virtual_pipeline}"
        divisions = [
            (tensor, parallel.tensor, "attention heads", self.num_heads),
            (chunks, parallel.pipeline * parallel.virtual_pipeline, "layers", self.num_layers),
            (experts, parallel.expert, "experts", self.moe.num_experts)
            if self.moe
            else (tensor, parallel.tensor, "FFN channels", self.ffn_size),
        ]
        for keys, size, divided, count in divisions:
            if count % size:
                raise UserError(f"{keys} does not divide the model's {count} {divided}")
        self._check_qkv(parallel.tensor)
        if self.moe is None and parallel.expert > 1:
            raise UserError(
                f"{experts} needs a mixture of experts, found model_type={self.family!r}"
            )
        if self.moe and parallel.tensor > 1 and not parallel.sequence:
            raise UserError(f"{tensor} of a mixture of experts needs parallel.sequence=true")

    def _check_qkv(self, tensor: int) -> None:
        """Refuse a tensor-parallel size by which Megatron does not cut queries, keys and values."""
        if self.num_kv_heads % tensor and tensor % self.num_kv_heads:
            raise UserError(
                f"parallel.tensor={tensor}: expected a divisor or a multiple of the model's "
                f"{self.num_kv_heads} key-value heads"
            )
        if self.num_qkv_rows % tensor:
            raise UserError(
                f"parallel.tensor={tensor} does not divide the model's {self.num_qkv_rows} rows of "
                "queries, keys and values"
            )

    def check_positions(self, keys: str, num_tokens: int) -> None:
        """Refuse sequences of `num_tokens`, as `keys` of the config allow, beyond the positions.

        Raises:
            UserError: they exceed the model's positions.
        """
        if num_tokens > self.max_positions:
            raise UserError(
                f"{keys} = {num_tokens} tokens, expected at most config.json's "
                f"max_position_embeddings={self.max_positions}"
            )

    @property
    def num_qkv_rows(self) -> int:
        """Rows of a layer's queries, keys and values, which Megatron keeps in one matrix."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    @property
    def num_experts(self) -> int:
        """Experts of a layer; a dense layer has 1."""
        return self.moe.num_experts if self.moe else 1
