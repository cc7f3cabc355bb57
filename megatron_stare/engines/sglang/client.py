"""One SGLang server over HTTP: what it is asked, and what counts as an answer.

The contract is that of SGLang 0.5.23. Token ids go out and come in; no text is ever exchanged.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.sglang import answers, tempering
from megatron_stare.engines.sglang.answers import Generation, ServerFailure
from megatron_stare.errors import UserError
from megatron_stare.ops.entropy_temperature import EntropyTemperature

_CONNECT_TIMEOUT_S = 10.0
_REFUSED_KEY = (401, 403)
_KEEP_ALIVE_S = 4.0
"""Shorter than the 5 s after which a server closes an idle connection: no request meets the end."""


class GoneError(ServerFailure):
    """Nothing listens where the server was: what ran on it has failed by itself."""


class GivenUpError(ServerFailure):
    """An answer that is not waited for any more; see `Server.give_up`."""


class Server:
    """A server and the state the engine keeps of it.

    max_requests  that may be under way at it
    is_routable   whether it may get requests: it has the engine's weights, and answers
    problem       why it is not routable
    last_heard    when it last showed that it generates, in the event loop's seconds
    """

    def __init__(self, url: str, *, max_requests: int, api_key: str | None = None) -> None:
        self.url = url
        self.max_requests = max_requests
        self.is_routable = False
        self.problem = "it has not been given weights"
        self.last_heard = -math.inf
        self._awaited: dict[asyncio.Timeout, str] = {}
        """The wait for each response, with the reason to end it, if there is one."""
        self._client = httpx.AsyncClient(
            base_url=url,
            # The dispatcher bounds requests; control calls come on top.
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=max_requests,
                keepalive_expiry=_KEEP_ALIVE_S,
            ),
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S),
            trust_env=False,  # A proxy of the environment is not for the cluster's own network.
        )

    async def generate(
        self,
        request_id: str,
        token_ids: Sequence[int],
        parameters: Mapping[str, Any],
        *,
        version: int,
        deadline_s: float,
    ) -> Generation:
        """Continue a prompt under weights `version`; `parameters` as of `sampling_parameters`.

        Raises:
            ServerFailure: no answer in time, not a valid one, or one of other weights.
            UserError: the server refuses the request, or has no room for so long a response.
        """
        body = _body(request_id, token_ids, parameters, logprobs_from=-1)
        answer = await self._ask({**body, **tempering.request_fields(parameters)}, deadline_s)
        self._was_heard()
        with answers.told_apart():
            generation = answers.parse_generation(answer, parameters, version)
        num_tokens, asked = len(generation.token_ids), parameters["max_new_tokens"]
        if generation.finish_reason == "length" and num_tokens < asked:
            raise UserError(
                f"{self.url}: ended a response at {num_tokens} tokens, expected room for {asked} "
                f"after {len(token_ids)}: its --context-length or --max-total-tokens is too small"
            )
        return generation

    async def score(
        self,
        request_id: str,
        token_ids: Sequence[int],
        parameters: Mapping[str, Any],
        start: int,
        *,
        version: int,
        deadline_s: float,
    ) -> Generation:
        """The tokens from place `start` on, as if they had been generated, and their log-probs.

        Raises as `generate`.
        """
        # The first that it gives is None.
        body = _body(request_id, token_ids, parameters, logprobs_from=start - 1)
        answer = await self._ask(body, deadline_s)
        self._was_heard()
        with answers.told_apart():
            return answers.parse_scores(answer, token_ids[start:], version)

    async def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, deadline_s: float
    ) -> Any:
        """The JSON that the server answers, None where it answers nothing.

        Raises:
            ServerFailure: no answer in time, an error of the server's, or no JSON.
            UserError: the server calls the request wrong (HTTP 4xx).
        """
        if self._client.is_closed:
            raise ServerFailure("it is no longer among the servers")
        try:
            async with asyncio.timeout(deadline_s):
                response = await self._client.request(method, path, json=body)
        except TimeoutError:
            raise ServerFailure(f"no answer to {path} within {deadline_s:g} s") from None
        except httpx.HTTPError as error:
            cause = str(error) or type(error).__name__
            kind = GoneError if _is_refusal(error) else ServerFailure
            raise kind(f"no answer to {path} ({cause})") from None
        if response.status_code in _REFUSED_KEY:
            raise UserError(
                f"{self.url}{path}: refused with status {response.status_code}; "
                "rollout.servers.api_key_env: expected the variable with the API key of this server"
            )
        if response.is_client_error:
            raise UserError(
                f"{self.url}{path}: refused with status {response.status_code}: "
                f"{response.text[:500]}"
            )
        if not response.is_success:
            raise ServerFailure(f"{path}: status {response.status_code}: {response.text[:200]}")
        try:
            return response.json() if response.content else None
        except ValueError:
            raise ServerFailure(f"{path}: the answer is not JSON") from None

    async def check_health(self, version: int | None, *, deadline_s: float) -> None:
        """See that it generates, and, unless None, that it has weights `version`.

        Raises:
            ServerFailure: it does not, or has others.
        """
        await self.call("GET", "/health_generate", deadline_s=deadline_s)
        self._was_heard()
        info = await self.call("GET", "/model_info", deadline_s=deadline_s)
        if version is not None:
            answers.check_version(info["weight_version"], version)

    def give_up(self, reason: str) -> None:
        """Have all responses that are awaited fail now, for a reason, with GivenUpError."""
        for wait, known_reason in self._awaited.items():
            if not known_reason:
                self._awaited[wait] = reason
                wait.reschedule(asyncio.get_running_loop().time())

    async def abort(self, request_id: str, *, deadline_s: float) -> None:
        """Stop a request; one that has ended is no error. Raises ServerFailure."""
        await self.call("POST", "/abort_request", {"rid": request_id}, deadline_s=deadline_s)

    async def abort_all(self, *, deadline_s: float) -> None:
        """Stop every request. Raises ServerFailure."""
        await self.call("POST", "/abort_request", {"abort_all": True}, deadline_s=deadline_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(self, body: Mapping[str, Any], deadline_s: float) -> Any:
        """The answer of /generate; `give_up` ends the wait for it."""
        wait = asyncio.timeout(None)
        self._awaited[wait] = ""
        try:
            async with wait:
                return await self.call("POST", "/generate", body, deadline_s=deadline_s)
        except TimeoutError:
            raise GivenUpError(self._awaited[wait]) from None
        finally:
            del self._awaited[wait]

    def _was_heard(self) -> None:
        self.last_heard = asyncio.get_running_loop().time()


def sampling_parameters(
    sampling: SamplingConfig,
    stop_ids: Sequence[int],
    *,
    max_new_tokens: int,
    seed: int,
    rule: EntropyTemperature | None = None,
) -> dict[str, Any]:
    """Every parameter that shapes the distribution or the length, so that no server's default does.

    Defaults come from the model's generation_config.json and from the server's own arguments, and
    apply to each parameter that a request leaves out. `seed`, 63 bits, is heeded by servers with
    deterministic inference only.
    """
    return {
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": 0,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "min_p": 0.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "repetition_penalty": 1.0,
        "logit_bias": None,
        "stop": None,
        "stop_regex": None,
        "stop_token_ids": list(stop_ids),
        "ignore_eos": False,
        "no_stop_trim": True,
        "n": 1,
        "beam_width": None,
        "sampling_seed": seed,
        **({} if rule is None else tempering.parameters_of(rule, sampling.temperature)),
    }


def _is_refusal(error: BaseException | None) -> bool:
    """Whether a connection was refused, at the bottom of what libraries make of it."""
    while error is not None and not isinstance(error, ConnectionRefusedError):
        error = error.__cause__ or error.__context__
    return error is not None


def _body(
    request_id: str,
    token_ids: Sequence[int],
    parameters: Mapping[str, Any],
    *,
    logprobs_from: int,
) -> dict[str, Any]:
    """Of a request for tokens, with log-probs of those asked for from a place on, and no text."""
    return {
        "rid": request_id,
        "input_ids": list(token_ids),
        "sampling_params": dict(parameters),
        "return_logprob": True,
        "logprob_start_len": logprobs_from,
        "top_logprobs_num": 0,
        "return_text_in_logprobs": False,
        "stream": False,
    }
