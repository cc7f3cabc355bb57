"""The embedded engine: a transformers model in this process. No server, no other machine."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.decoding import ATTENTION, Decoded, decode, register_attention
from megatron_stare.engines.engine import Request
from megatron_stare.engines.randomness import token_uniforms
from megatron_stare.errors import UserError
from megatron_stare.types import Sample
from megatron_stare.weights.fused_experts import named_as_in_files
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.load import open_hf_weights
from megatron_stare.weights.names import model_entries


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
        tokenizer: PreTrainedTokenizerBase,
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
        self, requests: Sequence[Request], sampling: SamplingConfig, *, seed: int
    ) -> Generator[Sample, None, None]:
        """See `Engine`. Log-probs are those `draw_tokens` gives: with top_p or top_k truncated.

        Samples are begun here, never continued.

        Raises:
            UserError: a token has no distribution, because of the weights.
        """
        self._is_interrupted = False
        try:
            for batch in self._batches(requests):
                for sample in self._generate_batch(batch, sampling, seed):
                    if self._is_interrupted:
                        return
                    yield sample
        except FloatingPointError as error:
            raise UserError(
                f"the policy of step {self.weight_version} cannot generate: {error}; expected "
                "weights that give finite log-probs (a smaller optim.lr, or another model.path)"
            ) from None

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
            for batch in self._batches(requests)
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
        shape = read_hf_config(folder)
        tensors = open_hf_weights(folder, shape)
        names = (name for entry in model_entries(shape).values() for name in entry.hf)
        self.update_weights(((name, tensors[name][:]) for name in names), version)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see `Engine`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Engine`."""

    def close(self) -> None:
        """Nothing outlives the object."""

    def _batches(self, requests: Sequence[Request]) -> list[list[Request]]:
        # Prompts of like length together: less padding.
        ordered = sorted(requests, key=lambda request: len(request.prompt.token_ids))
        size = self._max_batch_sequences
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]

    def _generate_batch(
        self, requests: Sequence[Request], sampling: SamplingConfig, seed: int
    ) -> Generator[Sample, None, None]:
        start = time.perf_counter()
        prompts = list({request.prompt.uid: request.prompt for request in requests}.values())
        row_of = {prompt.uid: row for row, prompt in enumerate(prompts)}
        uniforms = np.stack(
            [
                token_uniforms(
                    seed, request.prompt.uid, request.index, sampling.max_response_tokens
                )
                for request in requests
            ]
        )
        for decoded in decode(
            self._model,
            [prompt.token_ids for prompt in prompts],
            [row_of[request.prompt.uid] for request in requests],
            torch.from_numpy(uniforms).to(self._device),
            sampling,
            self._stop_ids,
        ):
            seconds = time.perf_counter() - start
            yield self._sample(requests[decoded.sequence], decoded, seconds)

    def _sample(self, request: Request, decoded: Decoded, seconds: float) -> Sample:
        return Sample(
            prompt=request.prompt,
            index=request.index,
            text=str(self._tokenizer.decode(list(decoded.token_ids), skip_special_tokens=True)),
            token_ids=decoded.token_ids,
            logprobs=decoded.logprobs,
            loss_mask=(True,) * len(decoded.token_ids),
            finish_reason="stop" if decoded.is_stopped else "length",
            weight_versions=(self.weight_version,) * len(decoded.token_ids),
            seconds=seconds,
        )


def _build_model(folder: Path, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    register_attention()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # Whatever its checks raise.
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder}/config.json: refused by transformers: {reason}") from error
    # Initialisation, which is overwritten, must not advance the random state of the trainer.
    with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=ATTENTION)
    return model.eval()
