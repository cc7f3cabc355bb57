"""What a rollout engine promises: requests in, samples out as they finish, weights in between."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.types import Prompt, Sample


@dataclass(frozen=True, slots=True)
class Request:
    """A sample that an engine is asked for; to be continued where `begun` is its first part."""

    prompt: Prompt
    index: int
    begun: Sample | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What its sample is known by in its step: the prompt's uid, and the index."""
        return self.prompt.uid, self.index


class Engine(Protocol):
    """Generates samples under the weights it was last given."""

    @property
    def weight_version(self) -> int:
        """The step whose update produced those weights; every token carries it."""
        ...

    def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, *, seed: int
    ) -> Generator[Sample, None, None]:
        """Yield the sample of each request, whole with what was begun, in any order.

        A pair of prompt and index comes at most once. One that never comes could not be answered;
        one stopped from outside comes with finish reason `aborted`. Closing the iterator drops what
        is still running. A sample's randomness depends on `seed`, the prompt's uid and the index
        alone.
        """
        ...

    def interrupt(self) -> None:
        """Stop what `generate` runs; may be called from another thread, and more than once.

        Samples that were running still come, `aborted`, with the tokens they have, from an engine
        that can continue them; from others they do not come.
        """
        ...

    def update_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take every tensor of the model, by Hugging Face name, and consume the iterable.

        Raises:
            ValueError: a name or a shape is not the engine's model's, or a tensor is missing.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What else its samples depend on, besides weights and requests, as plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        ...

    def close(self) -> None:
        """Release processes, connections and memory."""
        ...
