"""RMSNorm, alone and inside the linear layer that follows it, under Transformer Engine's names."""

from __future__ import annotations

import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn import Parameter


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, in float32 inside."""
    return _RmsNorm.apply(x, weight, eps)


class _RmsNorm(torch.autograd.Function):
    """Keeps x and one number a row; torch's own keeps x three times over and is slower on CPU."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        wide = x.float()
        scale = torch.linalg.vecdot(wide, wide).div_(x.shape[-1]).add_(eps).rsqrt_().unsqueeze(-1)
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, scale = ctx.saved_tensors
        grad = grad.float()
        normed = x.float() * scale
        grad_weight = (grad * normed).flatten(0, -2).sum(0)
        grad = grad * weight
        # The part of the gradient along x itself only changes a length that is divided out.
        along = torch.linalg.vecdot(grad, normed).div_(x.shape[-1]).unsqueeze(-1)
        grad_x = grad.sub_(normed.mul_(along)).mul_(scale)
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), None


class RMSNorm(torch.nn.Module):
    """`rms_norm` with its weight."""

    def __init__(self, *, config: TransformerConfig, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = _norm_weight(hidden_size, config)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[..., hidden_size]`."""
        return rms_norm(x, self.weight, self.eps)


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
        return super().forward(rms_norm(input_, self.layer_norm_weight, self.eps))


def _norm_weight(size: int, config: TransformerConfig) -> Parameter:
    device = None if config.use_cpu_initialization else torch.cuda.current_device()
    weight = Parameter(torch.ones(size, dtype=config.params_dtype, device=device))
    # Each rank normalises its own tokens: Megatron sums such gradients over the tensor group.
    weight.sequence_parallel = config.sequence_parallel  # pyright: ignore[reportAttributeAccessIssue]
    return weight
