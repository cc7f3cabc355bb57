"""What bench_logprob_entropy.py compares: ways from hidden states to log-probs and entropies.

Each peer takes (hidden `[n, h]`, weight `[V/tp, h]`, targets `[n]`, group) and returns log-prob and
entropy `[n]`, or None for the entropy if it has none. `hidden` is the same on all ranks. The last
peer is no head, but the matmuls that ours cannot do without.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import megatron_stare.policy  # noqa: F401  (brings in Megatron-Core the way it has to be)

# isort: split
import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.tensor_parallel.cross_entropy import vocab_parallel_cross_entropy
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from torch import Tensor
from torch.autograd.function import once_differentiable

from megatron_stare.ops.head_tiles import KEPT_BYTES, Tile, blocks
from megatron_stare.ops.logprob_entropy import (
    linear_logprob_entropy,
    linear_token_scores,
    logprob_entropy,
)
from megatron_stare.ops.partials import TokenScores

Group = dist.ProcessGroup
Outputs = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Peer:
    """One way to compute it, and where it can run."""

    name: str
    call: Callable[[Tensor, Tensor, Tensor, Group], Outputs]
    materialises_logits: bool = False
    package: str | None = None
    needs_cuda: bool = False
    sharded_needs_cuda: bool = False
    one_rank_only: bool = False
    only_16_bit: bool = False
    only_matmuls: bool = False  # what it returns has the shapes of a head's outputs, no more

    def why_skipped(self, device: torch.device, dtype: torch.dtype, tp_size: int) -> str | None:
        """None if it runs here."""
        if self.package is not None and importlib.util.find_spec(self.package) is None:
            return f"package {self.package} is not installed"
        if self.needs_cuda and device.type != "cuda":
            return "CUDA only"
        if self.sharded_needs_cuda and tp_size > 1 and device.type != "cuda":
            return "CUDA only for a sharded vocabulary"
        if self.one_rank_only and tp_size > 1:
            return "not made for a sharded vocabulary"
        if self.only_16_bit and dtype == torch.float32:
            return "the same as without it in float32"
        return None


def this_op(hidden: Tensor, weight: Tensor, targets: Tensor, group: Group) -> Outputs:
    """As in training: the weight gradient goes to `main_grad`, and first tiles are kept."""
    return _this_op(hidden, weight, targets, group, KEPT_BYTES[hidden.device.type])


def this_op_keeping_none(hidden: Tensor, weight: Tensor, targets: Tensor, group: Group) -> Outputs:
    """As in training where there is no room."""
    return _this_op(hidden, weight, targets, group, 0)


def _this_op(
    hidden: Tensor, weight: Tensor, targets: Tensor, group: Group, keep_bytes: int
) -> Outputs:
    main_grad = getattr(weight, "main_grad", None)
    return linear_logprob_entropy(
        hidden, weight, targets, group=group, main_grad=main_grad, keep_bytes=keep_bytes
    )


class ThisOpAfterAPrepass:
    """As in a STARE step: what a call without gradients has found, the next one with them knows."""

    def __init__(self) -> None:
        self._known: TokenScores | None = None

    def __call__(self, hidden: Tensor, weight: Tensor, targets: Tensor, group: Group) -> Outputs:
        """As every peer is called."""
        known = self._known if torch.is_grad_enabled() else None
        main_grad = getattr(weight, "main_grad", None)
        scores = linear_token_scores(
            hidden, weight, targets, group=group, main_grad=main_grad, known=known
        )
        self._known = None if torch.is_grad_enabled() else scores
        return scores.logprobs, scores.entropies


def this_op_on_logits(hidden: Tensor, weight: Tensor, targets: Tensor, group: Group) -> Outputs:
    """The LM head outside."""
    hidden = copy_to_tensor_model_parallel_region(hidden, group)
    return logprob_entropy(hidden @ weight.t(), targets, group=group)


def plain_torch(hidden: Tensor, weight: Tensor, targets: Tensor, group: Group) -> Outputs:
    """As in every tutorial; the entropy detached, as the others have it."""
    return _from_logits(F.linear(hidden, weight).float(), targets)


def plain_float32(hidden: Tensor, weight: Tensor, targets: Tensor, group: Group) -> Outputs:
    """The same without rounding logits to 16 bits."""
    return _from_logits(F.linear(hidden.float(), weight.float()), targets)


def _from_logits(logits: Tensor, targets: Tensor) -> Outputs:
    logprobs = logits.log_softmax(-1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(1, targets[:, None])[:, 0], entropy


def megatron_and_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, group: Group) -> Outputs:
    """Megatron-Core's cross-entropy, which writes over its logits, after an unfused entropy."""
    hidden = copy_to_tensor_model_parallel_region(hidden, group)
    logits = F.linear(hidden, weight).float()
    with torch.no_grad():
        entropy = _vocab_parallel_entropy(logits, group)
    loss = vocab_parallel_cross_entropy(logits[:, None], targets[:, None], tp_group=group)
    return -loss[:, 0], entropy


def _vocab_parallel_entropy(logits: Tensor, group: Group) -> Tensor:
    maximum = logits.amax(-1, keepdim=True)
    dist.all_reduce(maximum, dist.ReduceOp.MAX, group=group)
    shifted = logits - maximum
    exp = shifted.exp()
    total = reduce_from_tensor_model_parallel_region(exp.sum(-1), group)
    moment = reduce_from_tensor_model_parallel_region((exp * shifted).sum(-1), group)
    return total.log() - moment / total


def torch_chunked(hidden: Tensor, weight: Tensor, targets: Tensor, group: Group) -> Outputs:
    """torch's own; chunked over tokens, recomputes in the backward; no entropy."""
    options = torch.nn.LinearCrossEntropyOptions()
    return -F.linear_cross_entropy(hidden, weight, targets, reduction="none", options=options), None


def liger(hidden: Tensor, weight: Tensor, targets: Tensor, group: Group) -> Outputs:
    """Liger's scaled cross-entropy: CuTe kernels on Hopper, chunks of 512 tokens elsewhere."""
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import (  # pyright: ignore[reportMissingImports]
        LigerFusedLinearScaledCrossEntropyFunction,
        LigerFusedLinearScaledCrossEntropyTPFunction,
    )

    if group.size() == 1:
        nll, entropy = LigerFusedLinearScaledCrossEntropyFunction.apply(
            hidden, weight, targets, return_entropy=True
        )
    else:
        nll, entropy = LigerFusedLinearScaledCrossEntropyTPFunction.apply(
            hidden, weight, targets, group, return_entropy=True
        )
    return -nll, entropy


def cut_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, group: Group) -> Outputs:
    """Apple's Triton kernels without gradient filtering; no entropy."""
    from cut_cross_entropy import (  # pyright: ignore[reportMissingImports]
        linear_cross_entropy,
    )

    loss = linear_cross_entropy(hidden, weight, targets, reduction="none", filter_eps=None)
    return -loss, None


def verl_kernel(hidden: Tensor, weight: Tensor, targets: Tensor, group: Group) -> Outputs:
    """verl's Triton kernels."""
    from verl.utils.kernel.linear_cross_entropy import (  # pyright: ignore[reportMissingImports]
        linear_cross_entropy,
    )

    return linear_cross_entropy(hidden, weight, targets, 1.0, "none", group)


def bare_matmuls(hidden: Tensor, weight: Tensor, targets: Tensor, group: Group) -> Outputs:
    """This op's matmuls, and nothing between them or between ranks."""
    return _BareMatmuls.apply(hidden, weight), None


class _BareMatmuls(torch.autograd.Function):
    """The four of each of the op's tiles: logits; and again, and their products with the operands.

    In the operands' type, accumulated in float32. Logits stand for their own gradient.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor):
        ctx.save_for_backward(hidden, weight)
        for rows, span in _tiles(hidden, weight):
            torch.mm(hidden[rows], weight[span].t())
        return hidden.new_zeros(len(hidden))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_logprob: Tensor):
        hidden, weight = ctx.saved_tensors
        d_hidden, d_weight = torch.zeros_like(hidden), torch.zeros_like(weight)
        for rows, span in _tiles(hidden, weight):
            logits = torch.mm(hidden[rows], weight[span].t())
            d_hidden[rows].addmm_(logits, weight[span])
            d_weight[span].addmm_(logits.t(), hidden[rows])
        return d_hidden, d_weight


def _tiles(hidden: Tensor, weight: Tensor) -> Iterator[tuple[slice, slice]]:
    tile = Tile.for_head(weight.shape[1], weight.device)
    for rows in blocks(len(hidden), tile.rows):
        for span in blocks(len(weight), tile.columns):
            yield rows, span


AFTER_A_PREPASS = "this op, after a prepass"
KEEPING_NONE = "this op, no logits kept"
PEERS = (
    Peer("this op", this_op),
    Peer(KEEPING_NONE, this_op_keeping_none),
    Peer(AFTER_A_PREPASS, ThisOpAfterAPrepass()),
    Peer("this op, given logits", this_op_on_logits, materialises_logits=True),
    Peer("plain torch", plain_torch, materialises_logits=True, one_rank_only=True),
    Peer(
        "plain torch, float32 logits",
        plain_float32,
        materialises_logits=True,
        one_rank_only=True,
        only_16_bit=True,
    ),
    Peer("Megatron-Core + entropy", megatron_and_entropy, materialises_logits=True),
    Peer("torch linear_cross_entropy", torch_chunked, one_rank_only=True),
    Peer("Liger scaled CE", liger, package="liger_kernel", sharded_needs_cuda=True),
    Peer(
        "cut-cross-entropy",
        cut_cross_entropy,
        package="cut_cross_entropy",
        needs_cuda=True,
        one_rank_only=True,
    ),
    Peer("verl kernel", verl_kernel, package="verl", needs_cuda=True),
    Peer("bare matmuls", bare_matmuls, only_matmuls=True),
)
