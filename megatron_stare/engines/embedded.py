"""The embedded engine: a transformers model in this process. No server, no other machine."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.decoding import ATTENTION, ToDecode, decode, register_attention
from megatron_stare.engines.engine import NO_MORE, More, Request, Score, check_scores
from megatron_stare.engines.randomness import token_uniforms
from megatron_stare.engines.scoring import token_logprobs
from megatron_stare.errors import UserError
from megatron_stare.types import Sample
from megatron_stare.weights.fused_experts import named_as_in_files
from megatron_stare.weights.load import hf_weights
from megatron_stare.weights.refusals import refusals_named


class EmbeddedEngine:
    """Generates batch after batch with a model of the shape that `folder`'s config.json describes.

    The weights are random until `update_weights` or `load_weights`; `weight_version` is -1 so long.
    At most `max_batch_sequences` sequences decode together. A sample depends on the weights, the
    sampling config, the seed, its prompt and its index; on its batch only through rounding.
    Responses end at `stop_ids` (`rollout/stop_tokens.py`).
    """

    weight_version: int

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerFast,
        *,
        device: torch.device,
        dtype: torch.dtype,
        max_batch_sequences: int,
        stop_ids: Iterable[int],
    ) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = tuple(stop_ids)
        self._max_batch_sequences = max_batch_sequences
        self._device = device
        self._model = _build_model(folder, device, dtype)
        self._is_interrupted = False
        self.weight_version = -1

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        *,
        seed: int,
        more: More = NO_MORE,
    ) -> Generator[Sample, None, None]:
        """See `Engine`. Log-probs are those `draw_tokens` gives: with top_p or top_k truncated.

        Further requests are taken together, when all before are answered and no other can come.

        Raises:
            UserError: a token has no distribution, because of the weights.
        """
        self._is_interrupted = False
        try:
            known = [*requests, *more.take("all")]
            while known and not self._is_interrupted:
                for batch in self.batches(known):
                    if not self._is_interrupted:
                        yield from self._generate_batch(batch, sampling, seed)
                known = more.take("all")
        except FloatingPointError as error:
            raise self._has_no_distribution("generate", error) from None

    def score(self, scores: Sequence[Score]) -> list[tuple[float, ...] | None]:
        """See `ContinuingEngine`. Those of like length are scored together."""
        check_scores(scores, self._model.config.vocab_size)
        places = sorted(range(len(scores)), key=lambda place: len(scores[place].token_ids))
        found: list[tuple[float, ...] | None] = [None] * len(scores)
        try:
            for start in range(0, len(places), self._max_batch_sequences):
                batch = places[start : start + self._max_batch_sequences]
                asked = [scores[place] for place in batch]
                answers = token_logprobs(self._model, asked, self._device)
                for place, logprobs in zip(batch, answers, strict=True):
                    found[place] = logprobs
        except FloatingPointError as error:
            raise self._has_no_distribution("score", error) from None
        return found

    def _has_no_distribution(self, what: str, error: FloatingPointError) -> UserError:
        return UserError(
            f"the policy of step {self.weight_version} cannot {what}: {error}; expected "
            "weights that give finite log-probs (a smaller optim.lr, or another model.path)"
        )

    def remaining(
        self, requests: Sequence[Request], there: Collection[tuple[str, int]]
    ) -> list[Request]:
        """What to ask for so that samples come to the bit as they would with all of the requests.

        Args:
            there: prompt uid and index of samples that are there: batches of them alone are not
                generated again.
        """
        return [
            request
            for batch in self.batches(requests)
            if any(request.key not in there for request in batch)
            for request in batch
        ]

    def interrupt(self) -> None:
        """See `Engine`."""
        self._is_interrupted = True

    @torch.no_grad()
    def update_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> None:
        """See `Engine`."""
        params = named_as_in_files(dict(self._model.named_parameters()))
        missing = set(params)
        for name, tensor in tensors:
            if name not in params:
                raise ValueError(f"weight {name!r} is not a parameter of the engine's model")
            if tensor.shape != params[name].shape:
                raise ValueError(
                    f"weight {name!r} has shape {list(tensor.shape)}, "
                    f"the engine's has {list(params[name].shape)}"
                )
            params[name].copy_(tensor)
            missing.discard(name)
        if missing:
            raise ValueError(f"weights missing for the engine: {', '.join(sorted(missing))}")
        self.weight_version = version

    def load_weights(self, folder: Path, version: int) -> None:
        """Take the weights of a Hugging Face folder.

        Raises:
            UserError: its tensors are damaged or are not those of its config.json.
        """
        self.update_weights(hf_weights(folder), version)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see `Engine`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Engine`."""

    def close(self) -> None:
        """Nothing outlives the object."""

    def batches(self, requests: Sequence[Request]) -> list[list[Request]]:
        """Requests that decode together: of like length, for there to be less padding."""
        ordered = sorted(requests, key=lambda request: len(request.prompt.token_ids))
        size = self._max_batch_sequences
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]

    def _generate_batch(
        self, requests: Sequence[Request], sampling: SamplingConfig, seed: int
    ) -> Generator[Sample, None, None]:
        start = time.perf_counter()
        shared = _shared_prefixes(requests)
        place_of = {uid: place for place, uid in enumerate(shared)}
        sequences = [
            ToDecode(
                prefix=place_of[request.prompt.uid],
                rest=_whole(request)[len(shared[request.prompt.uid]) :],
                max_tokens=request.room(sampling),
                stop_ids=self._stop_ids if request.stop_ids is None else request.stop_ids,
            )
            for request in requests
        ]
        for decoded in decode(
            self._model,
            list(shared.values()),
            sequences,
            self._uniforms(requests, max(one.max_tokens for one in sequences), seed),
            sampling,
            lambda: self._is_interrupted,
            requests[0].rule,
        ):
            yield requests[decoded.sequence].answered(
                decoded.token_ids,
                decoded.logprobs,
                decoded.finish_reason,
                version=self.weight_version,
                seconds=time.perf_counter() - start,
                tokenizer=self._tokenizer,
                temperatures=() if requests[0].rule is None else decoded.temperatures,
            )

    def _uniforms(self, requests: Sequence[Request], num_tokens: int, seed: int) -> Tensor:
        """A token's depends on its place in the response: what goes on draws what it would have."""
        rows = []
        for request in requests:
            begun = len(request.behind_prompt)
            row = token_uniforms(seed, request.prompt.uid, request.index, begun + num_tokens)
            rows.append(row[begun:])
        return torch.from_numpy(np.stack(rows)).to(self._device)


def _whole(request: Request) -> tuple[int, ...]:
    return request.prompt.token_ids + request.behind_prompt


def _shared_prefixes(requests: Sequence[Request]) -> dict[str, Sequence[int]]:
    """What all of a prompt's requests begin with, by its uid: the prompt, and perhaps more."""
    of_prompt: dict[str, list[tuple[int, ...]]] = {}
    for request in requests:
        of_prompt.setdefault(request.prompt.uid, []).append(_whole(request))
    return {uid: wholes[0][: _num_shared(wholes)] for uid, wholes in of_prompt.items()}


def _num_shared(sequences: Sequence[tuple[int, ...]]) -> int:
    """Tokens with which all begin: those of the least and of the greatest tell."""
    pairs = zip(min(sequences), max(sequences), strict=False)
    first = next((place for place, (a, b) in enumerate(pairs) if a != b), None)
    return len(min(sequences)) if first is None else first


def _build_model(folder: Path, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    register_attention()
    with refusals_named(folder / "config.json"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # Initialisation, which is overwritten, must not advance the random state of the trainer.
        with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=ATTENTION
            )
    return model.eval()
