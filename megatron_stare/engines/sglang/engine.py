"""The SGLang engine: any number of servers, spoken to over HTTP by this process alone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from megatron_stare.config.rollout import SamplingConfig, ServersConfig
from megatron_stare.engines.engine import NO_MORE, More, Request, Score, check_scores
from megatron_stare.engines.randomness import derive_seed
from megatron_stare.engines.sglang.client import sampling_parameters
from megatron_stare.engines.sglang.dispatch import Answered, Attempt, Dispatcher
from megatron_stare.engines.sglang.event_loop import EventLoop
from megatron_stare.engines.sglang.memory import SharedMemory
from megatron_stare.engines.sglang.pool import ServerPool
from megatron_stare.engines.sglang.sync.weight_sync import WeightSync
from megatron_stare.errors import UserError
from megatron_stare.types import Prompt, Sample
from megatron_stare.weights.hf_config import read_hf_config


class SGLangEngine:
    """Generates on servers that hold a model of the shape of `folder`'s config.json.

    A server gets requests from the `update_weights` that it took part in, and none after it failed
    one, until it is seen to generate under the same weights. Samples that no server answers never
    come. `report` is told of servers that fail, come back, or differ in their weights. Responses
    end at `stop_ids` (`rollout/stop_tokens.py`). Requests may have a rule where it
    `moves_temperature`.

    Raises UserError where the servers do not answer, serve another kind of model or a model with
    another tokenizer, or do not take such rules.
    """

    weight_version: int

    def __init__(
        self,
        config: ServersConfig,
        folder: Path,
        tokenizer: PreTrainedTokenizerFast,
        *,
        weights_dir: Path,
        log_dir: Path,
        report: Callable[[str], None],
        stop_ids: Iterable[int],
        moves_temperature: bool = False,
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._shape = read_hf_config(folder)
        self._stop_ids = tuple(stop_ids)
        self._report = report
        self._pool = ServerPool(
            config,
            model_type=self._shape.raw["model_type"],
            tokenizer=tokenizer,
            log_dir=log_dir,
            report=report,
            moves_temperature=moves_temperature,
        )
        self._memory = SharedMemory(deadline_s=config.health_deadline_s)
        self._event_loop = EventLoop()
        self._sync = WeightSync(
            config,
            self._pool,
            folder,
            weights_dir=weights_dir,
            run=self._event_loop.run,
        )
        self._dispatcher: Dispatcher | None = None
        self.weight_version = -1
        try:
            self._event_loop.run(self._pool.connect())
        except BaseException:
            self.close()
            raise

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        *,
        seed: int,
        more: More = NO_MORE,
    ) -> Generator[Sample, None, None]:
        """See `Engine`. Log-probs are of the whole distribution at the temperature.

        A sample is a function of its seed on servers with deterministic inference only. Further
        requests are sent as soon as they are known.

        Raises:
            UserError: a prompt has a token outside the vocabulary, a server refuses a request, no
                server is left, or nothing comes from any.
        """
        self._check_token_ids(requests)
        dispatcher = self._dispatch([self._attempt(one, sampling, seed) for one in requests])
        self._event_loop.run(dispatcher.start())
        self._dispatcher = dispatcher
        more.when_known(lambda: self._event_loop.run(dispatcher.wake()))
        try:
            while True:
                answered = self._event_loop.run(dispatcher.next())
                if answered is not None:
                    yield self._sample(answered)
                is_idle = answered is None and dispatcher.is_idle
                known = more.take("any" if is_idle else "no")
                if known:
                    attempts = [self._attempt(request, sampling, seed) for request in known]
                    self._event_loop.run(dispatcher.add(attempts))
                elif is_idle:
                    return
        finally:
            self._dispatcher = None
            self._event_loop.run(dispatcher.cancel())

    def score(self, scores: Sequence[Score]) -> list[tuple[float, ...] | None]:
        """See `ContinuingEngine`. None where as many servers failed it as may."""
        check_scores(scores, self._shape.vocab_size)
        dispatcher = self._dispatch([_to_score(one, place) for place, one in enumerate(scores)])
        found: list[tuple[float, ...] | None] = [None] * len(scores)
        self._event_loop.run(dispatcher.start())
        try:
            while (answered := self._event_loop.run(dispatcher.next())) is not None:
                found[answered.request.index] = answered.generation.logprobs
        finally:
            self._event_loop.run(dispatcher.cancel())
        return found

    def batches(self, requests: Sequence[Request]) -> list[list[Request]]:
        """All of them: what runs beside a sample does not matter to it."""
        return [list(requests)]

    def beside(self) -> SGLangEngine:
        """The same servers under the weights that they have, for another call at the same time.

        Good until weights are updated, and closed with this one. Of both the requests of a server
        are counted by themselves, and interrupting either stops what is on its servers.
        """
        other = copy(self)
        other._dispatcher = None
        return other

    def interrupt(self) -> None:
        """See `Engine`: what was sent to a server comes, with the tokens it has."""
        if (dispatcher := self._dispatcher) is not None:
            self._event_loop.run(dispatcher.interrupt())

    def update_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> None:
        """See `Engine`. Servers that do not take the weights get no requests.

        Raises:
            UserError: fewer than `min_servers` took them, or the folder for them cannot be written.
        """
        self._event_loop.run(self._memory.take_weights())
        self._sync.update(tensors, version)
        self.weight_version = version

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see `Engine`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Engine`."""

    def give_up_memory(self) -> None:
        """Have the servers free their GPUs, until weights are updated and `take_memory_back`.

        Raises UserError where one of them does not.
        """
        # Before the first weights none is routable, and all of them stand in the trainer's way.
        servers = self._pool.servers if self.weight_version < 0 else self._pool.routable
        self._event_loop.run(self._memory.give_up(servers))

    def take_memory_back(self) -> None:
        """After new weights: take what it needs to generate. Raises UserError as above."""
        self._event_loop.run(self._memory.take_rest(self._pool.routable))

    def close(self) -> None:
        """Close the connections. The servers go on; those that have memory may be used again."""
        self._sync.close()
        self._event_loop.run(self._pool.close())
        self._event_loop.close()

    def _dispatch(self, attempts: Sequence[Attempt]) -> Dispatcher:
        return Dispatcher(
            attempts,
            self._pool,
            version=self.weight_version,
            config=self._config,
            report=self._report,
        )

    def _attempt(self, request: Request, sampling: SamplingConfig, seed: int) -> Attempt:
        prompt = request.prompt
        return Attempt(
            request,
            prompt.token_ids + request.behind_prompt,
            sampling_parameters(
                sampling,
                self._stop_ids if request.stop_ids is None else request.stop_ids,
                max_new_tokens=request.room(sampling),
                seed=derive_seed(seed, prompt.uid, request.index),
                rule=request.rule,
            ),
        )

    def _check_token_ids(self, requests: Sequence[Request]) -> None:
        """An id outside the vocabulary ends a server, so it is refused here."""
        for prompt in {request.prompt.uid: request.prompt for request in requests}.values():
            largest = max(prompt.token_ids)
            if largest >= self._shape.vocab_size or min(prompt.token_ids) < 0:
                raise UserError(
                    f"prompt {prompt.row}: token ids {min(prompt.token_ids)} to {largest}, "
                    f"expected 0 to {self._shape.vocab_size - 1}, the model's vocabulary"
                )

    def _sample(self, answered: Answered) -> Sample:
        generation = answered.generation
        return answered.request.answered(
            generation.token_ids,
            generation.logprobs,
            generation.finish_reason,
            version=self.weight_version,
            seconds=answered.seconds,
            tokenizer=self._tokenizer,
            temperatures=generation.temperatures,
        )


def _to_score(score: Score, place: int) -> Attempt:
    request = Request(Prompt("score", f"score {place}", "", score.token_ids, ""), place)
    sampling = SamplingConfig(max_response_tokens=1)
    parameters = sampling_parameters(sampling, (), max_new_tokens=0, seed=0)
    return Attempt(request, score.token_ids, parameters, scored_from=score.start)
