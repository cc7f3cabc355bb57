"""The replay engine: answers prompts with recorded samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from megatron_stare.config import SamplingConfig
from megatron_stare.errors import UserError
from megatron_stare.rollout.recording import Recording, read_recordings
from megatron_stare.types import Prompt, Sample


class ReplayEngine:
    """Serves what was recorded for a prompt's text, in the file's order, then from the first again.

    Under one weight version a recorded sample is served once: a prompt asked again when its samples
    are used up is not answered. Samples carry the engine's version, as if just generated;
    temperature, top_p, top_k and seed change nothing.

    Raises UserError at once where the file is not one of recorded samples (`read_recordings`).
    """

    weight_version: int

    def __init__(self, path: Path, tokenizer: PreTrainedTokenizerBase, *, vocab_size: int) -> None:
        self._path = path
        self._recordings = read_recordings(path, tokenizer, vocab_size=vocab_size)
        self._served: Counter[str] = Counter()
        self._served_before: Counter[str] = Counter()
        self.weight_version = -1

    def generate(
        self, prompts: Sequence[Prompt], num_samples: int, sampling: SamplingConfig, *, seed: int
    ) -> Iterator[Sample]:
        """See `Engine`.

        Raises:
            UserError: fewer than `num_samples` recorded of a prompt, or one over the length limit.
        """
        for prompt in prompts:
            for index, recording in enumerate(self._take(prompt, num_samples)):
                if len(recording.token_ids) > sampling.max_response_tokens:
                    raise UserError(
                        f"{self._path}: a response to {prompt.row} has "
                        f"{len(recording.token_ids)} tokens, expected at most "
                        f"max_response_tokens={sampling.max_response_tokens}"
                    )
                yield self._sample(prompt, index, recording)

    def update_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Count the version; every recorded sample may be served again."""
        for _ in tensors:
            pass
        self._served_before = self._served.copy()
        self.weight_version = version

    def close(self) -> None:
        """Nothing outlives the object."""

    def _take(self, prompt: Prompt, num_samples: int) -> list[Recording]:
        recordings = self._recordings.get(prompt.text, [])
        if len(recordings) < num_samples:
            raise UserError(
                f"{self._path}: holds {len(recordings)} samples of prompt {prompt.row}, "
                f"expected at least samples_per_prompt={num_samples}"
            )
        start = self._served[prompt.text]
        num_unused = len(recordings) - (start - self._served_before[prompt.text])
        if num_unused < num_samples:
            return []
        self._served[prompt.text] += num_samples
        return [recordings[i % len(recordings)] for i in range(start, start + num_samples)]

    def _sample(self, prompt: Prompt, index: int, recording: Recording) -> Sample:
        return Sample(
            prompt=prompt,
            index=index,
            text=recording.text,
            token_ids=recording.token_ids,
            logprobs=recording.logprobs,
            loss_mask=recording.loss_mask,
            finish_reason=recording.finish_reason,
            weight_version=self.weight_version,
            seconds=recording.seconds,
        )
