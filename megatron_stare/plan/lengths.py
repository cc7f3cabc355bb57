"""How long responses are assumed to get."""

from __future__ import annotations

import math
import random

from megatron_stare.engines.randomness import derive_seed
from megatron_stare.plan.hardware import Assumptions
from megatron_stare.plan.job import Job
from megatron_stare.plan.training import Batch


def response_length(assumed: Assumptions, limit: int, *name: int | str) -> int:
    """Of the response of that name: log-normal, cut at the limit, in the limit's unit."""
    sigma = assumed.response_log_sigma
    mean = limit * assumed.response_mean_share
    length = random.Random(derive_seed(*name)).lognormvariate(math.log(mean) - sigma**2 / 2, sigma)
    return min(max(round(length), 1), limit)


def drawn_batch(job: Job, *, seed: int) -> Batch:
    """A batch as if its groups were the first drawn."""
    rows = job.rows
    responses = [
        response_length(job.assumptions, rows.response_tokens, seed, group, index)
        for group in range(rows.prompts)
        for index in range(rows.responses)
    ]
    return Batch([rows.prompt_tokens] * len(responses), responses)
