"""Which part of each tensor a tensor-parallel rank of a server keeps.

Vocabularies are padded with zeros to a multiple of 64 that the ranks divide; on a CPU, so are the
channels of an MLP or an expert, to a multiple of 32 for each rank. Where ranks outnumber KV heads,
neighbours have the same one. What no rule names is whole on every rank. Experts are known on a CPU
alone: on GPUs they are arranged for the kernels that the server chose.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

_VOCABULARY = re.compile(r"^(model\.embed_tokens|lm_head)\.")
_QUERIES = re.compile(r"\.self_attn\.q_proj\.")
_KEYS_AND_VALUES = re.compile(r"\.self_attn\.[kv]_proj\.")
_MLP_IN = re.compile(r"\.(mlp|experts\.\d+)\.(gate|up)_proj\.")
_ATTENTION_OUT = re.compile(r"\.self_attn\.o_proj\.weight$")
_MLP_OUT = re.compile(r"\.(mlp|experts\.\d+)\.down_proj\.weight$")
_EXPERT = re.compile(r"\.mlp\.experts\.")
_VOCABULARY_MULTIPLE = 64
_CPU_MLP_MULTIPLE = 32


@dataclass(frozen=True, slots=True)
class ServerLayout:
    """Of servers on `device` with so many ranks."""

    device: str
    num_ranks: int
    num_kv_heads: int

    def is_known(self, name: str) -> bool:
        """Whether ranks keep of a tensor, by Hugging Face name, what `shard` says."""
        is_whole = self.device == "cpu" and self.num_ranks == 1
        return is_whole or not _EXPERT.search(name)

    def shard(self, name: str, tensor: Tensor, rank: int) -> Tensor:
        """The part of a tensor, by Hugging Face name, that a rank keeps: a view, or padded."""
        if _VOCABULARY.search(name):
            return self._cut(tensor, 0, rank, math.lcm(_VOCABULARY_MULTIPLE, self.num_ranks))
        if _QUERIES.search(name):
            return self._cut(tensor, 0, rank)
        if _KEYS_AND_VALUES.search(name):
            num_shards = min(self.num_ranks, self.num_kv_heads)
            return tensor.chunk(num_shards)[rank * num_shards // self.num_ranks]
        if _MLP_IN.search(name):
            return self._cut(tensor, 0, rank, self._mlp_multiple)
        if _ATTENTION_OUT.search(name):
            return self._cut(tensor, 1, rank)
        if _MLP_OUT.search(name):
            return self._cut(tensor, 1, rank, self._mlp_multiple)
        return tensor

    @property
    def _mlp_multiple(self) -> int:
        return _CPU_MLP_MULTIPLE * self.num_ranks if self.device == "cpu" else 1

    def _cut(self, tensor: Tensor, dim: int, rank: int, multiple: int = 1) -> Tensor:
        after = -tensor.shape[dim] % multiple
        if after:
            tensor = F.pad(tensor, (0, 0) * (tensor.ndim - 1 - dim) + (0, after))
        return tensor.chunk(self.num_ranks, dim)[rank]
