"""Products, norms, rotary embedding and Adam, as Transformer Engine's C++ extension has them.

Shapes: t tokens of all sequences (thd), h heads, d their size.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

__all__ = [
    "fused_rope_backward",
    "fused_rope_forward",
    "generic_gemm",
    "multi_tensor_adam",
    "multi_tensor_l2norm",
    "multi_tensor_scale",
    "multi_tensor_scale_tensor",
    "rmsnorm_bwd",
    "rmsnorm_fwd",
]


CALLS: collections.Counter[str] = collections.Counter()
"""How often each kernel was called in this process."""


def on_cuda[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """A kernel, which reads and writes memory of the GPU alone."""

    @functools.wraps(function)
    def kernel(*args: P.args, **kwargs: P.kwargs) -> R:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and not leaf.is_cuda:
                raise TypeError(f"{function.__name__}: a tensor {list(leaf.shape)} on the CPU")
        CALLS[function.__name__] += 1
        return function(*args, **kwargs)

    return kernel


def torch_type(dtype: Any) -> torch.dtype | None:
    from transformer_engine.pytorch.constants import DType, TE_DType_To_Torch

    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    return TE_DType_To_Torch[DType(int(dtype))]


@on_cuda
def generic_gemm(
    a: Tensor,
    transposes_a: bool,
    b: Tensor,
    transposes_b: bool,
    out: Tensor | None,
    quantizer: None,
    out_type: Any,
    bias: Tensor | None,
    bias_type: Any,
    gelu: bool,
    gelu_in: None,
    is_gradient: bool,
    workspace: Tensor,
    workspace_bytes: int,
    accumulates: bool,
    *_: Any,
    extra_output: Any = None,
    **overlap: Any,
) -> tuple[Tensor, Tensor | None, None, Any]:
    """op(b) @ op(a): cuBLAS counts columns first. The bias is added, or its gradient summed."""
    assert quantizer is None
    assert not gelu
    rows = b.reshape(-1, b.shape[-1]).float()
    columns = a.reshape(-1, a.shape[-1]).float()
    rows = rows.t() if transposes_b else rows
    product = rows @ (columns.t() if transposes_a else columns)
    d_bias = None
    if bias is not None and is_gradient:
        d_bias = rows.sum(1 if transposes_b else 0).to(torch_type(bias_type))
    elif bias is not None:
        product += bias.float()
    if not transposes_b:
        product = product.view(*b.shape[:-1], product.shape[-1])
    if out is None:
        return product.to(torch_type(out_type) or a.dtype), d_bias, None, extra_output
    product = product.view(out.shape)
    out.copy_(out + product if accumulates else product)
    return out, d_bias, None, extra_output


@on_cuda
def rmsnorm_fwd(
    x: Tensor,
    weight: Tensor,
    eps: float,
    out: Tensor | None,
    quantizer: None,
    out_type: Any,
    margin: int,
    is_around_one: bool,
) -> tuple[Tensor, None, Tensor]:
    """The normalised rows of `[n, size]`, no means, and 1 / their root mean squares `[n]`."""
    scale = torch.rsqrt(x.float().square().mean(-1) + eps)
    gain = weight.float() + is_around_one
    y = (x.float() * scale[:, None] * gain).to(torch_type(out_type) or x.dtype)
    return y if out is None else out.copy_(y), None, scale


@on_cuda
def rmsnorm_bwd(
    d_y: Tensor, x: Tensor, scale: Tensor, weight: Tensor, margin: int, is_around_one: bool
) -> tuple[Tensor, Tensor]:
    """Gradients by x and by the weight."""
    normalised = x.float() * scale[:, None]
    d_y = d_y.view(x.shape).float()
    d_normalised = d_y * (weight.float() + is_around_one)
    projection = (d_normalised * normalised).mean(-1, keepdim=True)
    d_x = (d_normalised - normalised * projection) * scale[:, None]
    return d_x.to(x.dtype), (d_y * normalised).sum(0).to(weight.dtype)


@on_cuda
def fused_rope_forward(t: Tensor, angles: Tensor, *layout: Any) -> Tensor:
    """Each half of a head turned against the other, by the angles of the token's position."""
    return _rotated(t, angles, 1.0, *layout)


@on_cuda
def fused_rope_backward(d_t: Tensor, angles: Tensor, *layout: Any) -> Tensor:
    """The turn back."""
    return _rotated(d_t, angles, -1.0, *layout)


def _rotated(
    t: Tensor,
    angles: Tensor,
    sign: float,
    start: None,
    form: Any,
    interleaved: bool,
    cu: Tensor,
    cp_size: int,
    cp_rank: int,
) -> Tensor:
    assert not interleaved
    assert angles.dtype == torch.float32
    assert cu.dtype == torch.int32
    parts = []
    for length in cu.diff().tolist():
        # A rank of context parallelism has the i-th part from the front and from the back.
        size = length // (2 * cp_size) if cp_size > 1 else length
        parts.append(angles[cp_rank * size : (cp_rank + 1) * size])
        if cp_size > 1:
            end = length - cp_rank * size
            parts.append(angles[end - size : end])
    angle = torch.cat(parts)[:, 0]  # [t, 1, d]
    first, second = t.float().chunk(2, -1)
    turned = torch.cat([-second, first], -1)
    return (t.float() * angle.cos() + turned * angle.sin() * sign).to(t.dtype)


@on_cuda
def multi_tensor_l2norm(
    chunk: int, flag: Tensor, lists: Sequence[Sequence[Tensor]], per_tensor: bool
) -> tuple[Tensor, None]:
    """The norm of all tensors together, `[1]`."""
    assert not per_tensor
    return torch.stack([t.float().norm() for t in lists[0]]).norm().reshape(1), None


@on_cuda
def multi_tensor_scale(
    chunk: int, flag: Tensor, lists: Sequence[Sequence[Tensor]], scale: float | Tensor
) -> None:
    """The second list is the first, scaled."""
    for source, target in zip(*lists, strict=True):
        target.copy_(source * scale)


multi_tensor_scale_tensor = multi_tensor_scale


@on_cuda
def multi_tensor_adam(
    chunk: int,
    flag: Tensor,
    lists: Sequence[Sequence[Tensor]],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    mode: int,
    corrects_bias: bool,
    weight_decay: float,
) -> None:
    """AdamW on (gradient, parameter, moment, second moment), all float32."""
    assert mode == 1
    scale = 1 - beta1**step if corrects_bias else 1.0
    scale2 = 1 - beta2**step if corrects_bias else 1.0
    for gradient, parameter, moment, moment2 in zip(*lists, strict=True):
        moment.mul_(beta1).add_(gradient.float(), alpha=1 - beta1)
        moment2.mul_(beta2).addcmul_(gradient.float(), gradient.float(), value=1 - beta2)
        change = (moment / scale) / ((moment2 / scale2).sqrt() + eps)
        parameter.sub_(lr * (change + weight_decay * parameter))
