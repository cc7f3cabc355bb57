"""The replay engine: answers prompts with recorded samples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.engine import Request
from megatron_stare.engines.recording import Recording, read_recordings
from megatron_stare.errors import UserError
from megatron_stare.types import Prompt, Sample


class ReplayEngine:
    """Serves what was recorded for a prompt's text, in the file's order, then from the first again.

    It has no model: it continues nothing and scores nothing, so that it is no `ContinuingEngine`.

    Under one weight version a recorded sample is served once: a prompt asked again when its samples
    are used up is not answered. Samples carry the engine's version, as if just generated;
    temperature, its rule, top_p, top_k and seed change nothing.

    Raises UserError at once where the file is not one of recorded samples (`read_recordings`).
    """

    weight_version: int

    def __init__(self, path: Path, tokenizer: PreTrainedTokenizerFast, *, vocab_size: int) -> None:
        self._path = path
        self._recordings = read_recordings(path, tokenizer, vocab_size=vocab_size)
        self._served: Counter[str] = Counter()
        self._served_before: Counter[str] = Counter()
        self._is_interrupted = False
        self.weight_version = -1

    def has_logprobs(self) -> bool:
        """Whether any recorded sample has log-probs."""
        recordings = (one for recordings in self._recordings.values() for one in recordings)
        return any(not math.isnan(value) for one in recordings for value in one.logprobs)

    def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, *, seed: int
    ) -> Generator[Sample, None, None]:
        """See `Engine`. Samples are begun here, never continued.

        Raises:
            UserError: fewer recorded of a prompt than are asked for, or one over the length limit.
        """
        self._is_interrupted = False
        for _, group in groupby(requests, key=lambda request: request.prompt.uid):
            siblings = list(group)
            recordings = self._take(siblings[0].prompt, len(siblings))
            for request, recording in zip(siblings, recordings, strict=False):
                if len(recording.token_ids) > sampling.max_response_tokens:
                    raise UserError(
                        f"{self._path}: a response to {request.prompt.row} has "
                        f"{len(recording.token_ids)} tokens, expected at most "
                        f"max_response_tokens={sampling.max_response_tokens}"
                    )
                if self._is_interrupted:
                    return
                yield self._sample(request, recording)

    def interrupt(self) -> None:
        """See `Engine`."""
        self._is_interrupted = True

    def update_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Count the version; every recorded sample may be served again."""
        for _ in tensors:
            pass
        self._served_before = self._served.copy()
        self.weight_version = version

    def state_dict(self) -> dict[str, Any]:
        """How often each prompt's samples were served, and had been when weights came last."""
        return {"served": dict(self._served), "served_before": dict(self._served_before)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Engine`; where another engine ran before, nothing has been served."""
        self._served = Counter(state.get("served", {}))
        self._served_before = Counter(state.get("served_before", {}))

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

    def _sample(self, request: Request, recording: Recording) -> Sample:
        return Sample(
            prompt=request.prompt,
            index=request.index,
            text=recording.text,
            token_ids=recording.token_ids,
            logprobs=recording.logprobs,
            loss_mask=recording.loss_mask,
            finish_reason=recording.finish_reason,
            weight_versions=(self.weight_version,) * len(recording.token_ids),
            seconds=recording.seconds,
            turns=recording.turns,
            temperatures=recording.temperatures,
        )
