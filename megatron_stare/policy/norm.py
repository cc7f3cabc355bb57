"""RMSNorm, alone and inside the linear layer that follows it, under Transformer Engine's names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn import Parameter


class RMSNorm(torch.nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension."""

    def __init__(self, *, config: TransformerConfig, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = _norm_weight(hidden_size, config)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[..., hidden_size]`."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class NormColumnParallelLinear(ColumnParallelLinear):
    """RMSNorm, then a column-parallel linear. Sequence parallelism gathers between the two."""

    def __init__(
        self, input_size: int, output_size: int, *, config: TransformerConfig, **options
    ) -> None:
        super().__init__(input_size, output_size, config=config, **options)
        self.eps = config.layernorm_epsilon
        self.layer_norm_weight = _norm_weight(input_size, config)

    def forward(self, input_: Tensor) -> tuple[Tensor, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Output `[s, b, output_size / tp]`, and the bias where the caller adds it."""
        weight = self.layer_norm_weight
        return super().forward(F.rms_norm(input_, weight.shape, weight, self.eps))


def _norm_weight(size: int, config: TransformerConfig) -> Parameter:
    device = None if config.use_cpu_initialization else torch.cuda.current_device()
    weight = Parameter(torch.ones(size, dtype=config.params_dtype, device=device))
    # Each rank normalises its own tokens: Megatron sums such gradients over the tensor group.
    weight.sequence_parallel = config.sequence_parallel  # pyright: ignore[reportAttributeAccessIssue]
    return weight
