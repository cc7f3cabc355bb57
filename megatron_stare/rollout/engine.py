"""What a rollout engine promises: prompts in, samples out as they finish, weights in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from torch import Tensor

from megatron_stare.config import SamplingConfig
from megatron_stare.types import Prompt, Sample


class Engine(Protocol):
    """Generates samples under the weights it was last given.

    weight_version  step whose update produced those weights; every sample carries it
    """

    weight_version: int

    def generate(
        self, prompts: Sequence[Prompt], num_samples: int, sampling: SamplingConfig, *, seed: int
    ) -> Iterator[Sample]:
        """Yield `num_samples` samples of each prompt as they finish, in any order.

        A pair of prompt and index, 0 to num_samples - 1, comes at most once. One that never comes
        could not be answered; one stopped from outside comes with finish reason `aborted`. Closing
        the iterator drops what is still running. A sample's randomness depends on `seed`, the
        prompt's uid and the index alone.
        """
        ...

    def update_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take every tensor of the model, by Hugging Face name, and consume the iterable.

        Raises:
            ValueError: a name or a shape is not the engine's model's, or a tensor is missing.
        """
        ...

    def close(self) -> None:
        """Release processes, connections and memory."""
        ...
