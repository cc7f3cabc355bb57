"""Tiny Hugging Face folders for tests, made by the real transformers classes.

    folder = make_hf_folder(tmp_path / "model", "qwen3", tied=True)

holds config.json, generation_config.json, safetensors in several shards with their index, and a
byte-level tokenizer with a ChatML template. Nothing in the network is symmetric or zero (biases and
norms are random too), and the vocabulary, 259, divides by no tensor-parallel size.

Classes of transformers are named at use: importing them takes seconds, in every process of a world.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from megatron_stare.model_shape import ModelShape
from megatron_stare.weights.names import model_entries

FAMILIES = ("qwen2", "qwen3", "llama", "mistral", "qwen3_moe")

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 20_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
EXPERTS = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "qwen2": {"family": "qwen2", "num_key_value_heads": 2},
    "qwen2 tied": {"family": "qwen2", "tied": True},
    "qwen3": {"family": "qwen3", "attention_bias": True},
    "qwen3 tied": {"family": "qwen3", "tied": True, "num_key_value_heads": 1},
    "llama": {"family": "llama", "attention_bias": True, "mlp_bias": True},
    "llama tied": {"family": "llama", "tied": True, "rope_parameters": LLAMA3_ROPE},
    "mistral": {"family": "mistral"},
    "qwen3_moe": {"family": "qwen3_moe"},
    "qwen3_moe tied": {"family": "qwen3_moe", "tied": True, "norm_topk_prob": False},
}
"""Keywords of `make_hf_folder`: each family, tied and untied, with biases, rope scaling, and fewer
KV heads than tensor-parallel ranks."""

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)
EOS_ID = 256

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(
    *, eos: bool = True, chat_template: bool = True
) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE without merges: any text, one token a byte, plus the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL_TOKENS[0],
        eos_token=SPECIAL_TOKENS[0] if eos else None,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE if chat_template else None
    return fast


def tiny_config(
    family: str, *, tied: bool = False, **overrides: Any
) -> transformers.PreTrainedConfig:
    """4 layers, 8 query heads in 4 KV groups: fits tensor parallelism to 8 and pipeline to 4.

    `head_dim` is not `hidden_size / num_attention_heads`, so that a mix-up of the two shows.
    """
    settings = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 20_000.0},
        "tie_word_embeddings": tied,
        "bos_token_id": None,
        "eos_token_id": EOS_ID,
        "pad_token_id": EOS_ID,
        "architectures": [f"{family.title().replace('_', '')}ForCausalLM"],
    }
    if family == "qwen3_moe":
        settings |= EXPERTS
    if family == "mistral":
        settings |= {"sliding_window": None}
    return transformers.AutoConfig.for_model(family, **(settings | overrides))


def make_model(
    family: str, *, tied: bool = False, seed: int = 0, dtype: torch.dtype = torch.float32, **config
) -> transformers.PreTrainedModel:
    """A transformers model with every parameter random: norms around 1, the rest around 0."""
    model = transformers.AutoModelForCausalLM.from_config(
        tiny_config(family, tied=tied, **config), attn_implementation="sdpa"
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.1, generator=generator)
            if "norm" in name:
                parameter.add_(1.0)
    return model.to(dtype).eval()


def make_hf_folder(
    folder: Path,
    family: str = "qwen3",
    *,
    tied: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "100KB",
    tokenizer: transformers.PreTrainedTokenizerFast | None = None,
    **config: Any,
) -> Path:
    """Write the whole folder and return it; `max_shard_size="1GB"` gives a single file.

    `tokenizer` defaults to `make_tokenizer()`; other keywords override the config.
    """
    model = make_model(family, tied=tied, seed=seed, dtype=dtype, **config)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    (tokenizer or make_tokenizer()).save_pretrained(folder)
    return folder


def hf_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, by name."""
    return {
        name: tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes a key."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def empty_stage(
    shape: ModelShape, *, tp_size: int = 1, pp_rank: int = 0, pp_size: int = 1, dtype=torch.float32
) -> dict[str, Tensor]:
    """The parameters of one pipeline stage as Megatron shapes them, by global name; all NaN."""
    layers = range(shape.num_layers // pp_size)
    offset = pp_rank * len(layers)
    held = [entry for entry in model_entries(shape).values() if entry.layer - offset in layers]
    if pp_size == 1:
        # A tied output layer is the embedding itself where one stage has both.
        held = [entry for entry in held if not entry.is_copy]
    return {
        entry.megatron: torch.full(entry.shard_shape(tp_size), torch.nan, dtype=dtype)
        for entry in held
    }
