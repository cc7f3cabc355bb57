"""Published networks by their config.json, and all that one rank of a layout holds of them.

On `meta`, in a world of which the other ranks are not there, so of any size. `described` runs here,
with torch's layers, and on the fake device, with Transformer Engine's: what comes back can be
compared as it is.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from torch.utils._pytree import tree_leaves

_QWEN = {
    **{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu"},
    **{"rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 32768},
    **{"tie_word_embeddings": False, "use_sliding_window": False, "torch_dtype": "bfloat16"},
}
_QWEN3 = _QWEN | {
    **{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"},
    **{"head_dim": 128, "vocab_size": 151936, "attention_bias": False},
}
_LLAMA = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"},
    **{"rms_norm_eps": 1e-5, "max_position_embeddings": 131072, "vocab_size": 128256},
    **{"hidden_size": 4096, "intermediate_size": 14336, "tie_word_embeddings": False},
    **{"num_attention_heads": 32, "num_key_value_heads": 8, "torch_dtype": "bfloat16"},
}


def _sizes(hidden: int, ffn: int, heads: int, kv_heads: int) -> dict[str, int]:
    return {
        **{"hidden_size": hidden, "intermediate_size": ffn},
        **{"num_attention_heads": heads, "num_key_value_heads": kv_heads},
    }


NETWORKS: dict[str, dict[str, Any]] = {
    "qwen2.5-32b": _QWEN | _sizes(5120, 27648, 40, 8) | {"vocab_size": 152064},
    "qwen2.5-math-7b": _QWEN | _sizes(3584, 18944, 28, 4) | {"vocab_size": 152064},
    "qwen2.5-1.5b": _QWEN
    | _sizes(1536, 8960, 12, 2)
    | {"vocab_size": 151936, "tie_word_embeddings": True},
    "qwen3-32b": _QWEN3 | _sizes(5120, 25600, 64, 8),
    "qwen3-30b-a3b": _QWEN3
    | _sizes(2048, 6144, 32, 4)
    | {
        **{"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"},
        **{"moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8},
        **{"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
    },
    "llama-3.1-8b": _LLAMA
    | {
        "rope_theta": 5e5,
        "rope_scaling": {
            **{"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
            **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
        },
    },
    "llama with all biases": _LLAMA | {"attention_bias": True, "mlp_bias": True},
}
"""Layers are cut to a few: all are the same."""

LAYOUTS: dict[str, dict[str, Any]] = {
    "one rank": {},
    "tp4 sp": {"tensor": 4, "sequence": True},
    "tp2 pp2": {"tensor": 2, "pipeline": 2},
    "cp2 tp2 sp": {"context": 2, "tensor": 2, "sequence": True},
    "pp2 vpp2": {"pipeline": 2, "virtual_pipeline": 2},
    "ep2 tp2 sp": {"expert": 2, "tensor": 2, "sequence": True},
}


def described(network: str, layout: str) -> dict[str, Any]:
    """The first and the last rank: parameters, buffers, places in a checkpoint, the plan's numbers.

    As plain values that JSON keeps.
    """
    from megatron_stare.config.policy import ModelConfig, ParallelConfig
    from megatron_stare.policy.meta import held_elements
    from megatron_stare.weights.hf_config import read_hf_config

    parallel = ParallelConfig(**LAYOUTS[layout])
    size = 2 * max(parallel.replica, parallel.expert)
    ranks: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        layers = {"num_hidden_layers": 4 if parallel.virtual_pipeline > 1 else 2}
        (Path(folder) / "config.json").write_text(json.dumps(NETWORKS[network] | layers))
        shape = read_hf_config(Path(folder))
        model = ModelConfig(path=Path(folder), dtype="bfloat16")
        for rank in (0, size - 1):
            ranks[str(rank)] = _held(shape, model, parallel, rank, size)
            held = held_elements(shape, model, parallel, rank=rank, world_size=size)
            ranks[str(rank)]["plan"] = [held.parameters, held.buffer, held.optimized]
    return ranks


def _held(shape: Any, model: Any, parallel: Any, rank: int, size: int) -> dict[str, Any]:
    from megatron_stare.policy.meta import _OnMeta, fake_world
    from megatron_stare.policy.model import build_model, named_parameters
    from megatron_stare.weights.names import model_entries
    from megatron_stare.weights.rules import check_coverage

    with fake_world(parallel, rank=rank, world_size=size) as groups, _OnMeta():
        chunks = build_model(shape, model, parallel, groups, seed=0)
        parameters = named_parameters(chunks)
        check_coverage(parameters, model_entries(shape), groups.tp.size())
        metadata = {"singleton_local_shards": False, "dp_cp_group": groups.dp_cp}
        places = {
            f"{number} {name}": _place(shard)
            for number, chunk in enumerate(chunks)
            for name, shard in chunk.sharded_state_dict(metadata=metadata).items()
            # What Transformer Engine's norms and linears bring for FP8; no checkpoint has it.
            if not name.endswith("_extra_state")
        }
    modules = {type(module).__module__ for chunk in chunks for module in chunk.modules()}
    return {
        "is_te": any(module.startswith("transformer_engine.") for module in modules),
        "parameters": {n: [list(p.shape), str(p.dtype)] for n, p in parameters.items()},
        "buffers": [name for chunk in chunks for name, _ in chunk.named_buffers()],
        "places": places,
    }


def _place(shard: Any) -> list[list[Any]]:
    """Of a parameter's shards in the whole, and which of their copies they are."""
    from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory

    # Gate and up are one parameter and two entries of a checkpoint.
    shards = tree_leaves(shard.build()) if isinstance(shard, ShardedTensorFactory) else [shard]
    return [
        [one.key, list(one.global_shape), list(one.global_offset), str(one.replica_id)]
        for one in shards
    ]
