"""What engines are asked for."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_stare.engines.engine import Request
from megatron_stare.types import Prompt


def requests_of(prompts: Sequence[Prompt], num_samples: int) -> list[Request]:
    """A request for each sample, prompt after prompt."""
    return [Request(prompt, index) for prompt in prompts for index in range(num_samples)]
