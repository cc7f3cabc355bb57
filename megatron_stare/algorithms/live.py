"""The live view: what a term of the loss sees."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from megatron_stare.algorithms.credit import Credit


class Live(NamedTuple):
    """The live view of a micro-batch, `[n]` each: whole samples, under the weights that learn.

    logprobs, entropies  with their gradient; entropies only where the term asks for it
    old_logprobs         under the weights before the step
    sample_ids           int64: the sample of each token (`per_sample`)
    """

    logprobs: Tensor
    entropies: Tensor
    old_logprobs: Tensor
    sample_ids: Tensor
    credit: Credit
