"""Temperatures by entropy on a server: its custom logit processor, and what it says of them.

A server has one temperature a request. It takes code that changes logits before it samples, and
its log-probs are of what that left. The code goes as text with each request; it reports each
token's temperature, and beside it the largest log-prob that it gave. The server returns both, and
the largest log-probs that it found itself say of which token a temperature is.
"""

from __future__ import annotations

import inspect
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from functools import cache
from typing import Any

import torch
from torch import Tensor

from megatron_stare.ops.entropy_temperature import EntropyTemperature

OPTION = "--enable-custom-logit-processor"
"""Of a server that takes code."""
_TOLERANCE = 1e-2
"""Nats between two largest log-probs of one token, in any floating type."""
_IMPORTS = """
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
import torch
from torch import Tensor
"""


class Tempering:
    """A server's logit processor: divides each row by the factor of its temperature.

    A request brings, as `custom_params`, its `temperature` and its `rule`, the fields of an
    `EntropyTemperature`. The server adds the request, `__req__`, and returns its `customized_info`.
    """

    def __call__(self, logits: Tensor, params: Sequence[Mapping[str, Any]]) -> Tensor:
        """Logits `[n, V]` of the next tokens of n requests, and what each has brought."""
        temperatures = torch.tensor([one["temperature"] for one in params], device=logits.device)
        logprobs = (logits.float() / temperatures[:, None]).log_softmax(-1)
        factors = torch.empty_like(temperatures)
        rules = [tuple(one["rule"]) for one in params]
        for rule in set(rules):
            rows = [row for row, own in enumerate(rules) if own == rule]
            factors[rows] = EntropyTemperature(*rule).factors(logprobs[rows])
        changed = logits.float() / factors[:, None]
        largest = (changed / temperatures[:, None]).log_softmax(-1).amax(-1)
        said = zip((temperatures * factors).tolist(), largest.tolist(), strict=True)
        for one, pair in zip(params, said, strict=True):
            request = one["__req__"]
            # Of a part of a long prompt, too, a token is drawn, and thrown away.
            if request.extend_end >= len(request.full_untruncated_fill_ids):
                if request.customized_info is None:
                    request.customized_info = {}
                request.customized_info.setdefault("tempering", []).append(pair)
        return changed


class _Sent:
    """What unpickles as `Tempering` where nothing of this package is installed."""

    def __reduce__(self) -> tuple[Any, ...]:
        sources = (_IMPORTS, *map(inspect.getsource, (EntropyTemperature, Tempering)))
        given = {"source": "\n".join(sources), "names": {"__name__": __name__}}
        # Not in the dialect of the module that loads it: annotations are to be types there, too.
        compiled = "compile(source, 'tempering', 'exec', dont_inherit=True)"
        return eval, (f"exec({compiled}, names) or names['Tempering']", given)


@cache
def processor() -> str:
    """The code, as a server takes it."""
    return json.dumps({"callable": pickle.dumps(_Sent(), protocol=4).hex()})


def parameters_of(rule: EntropyTemperature, temperature: float) -> dict[str, Any]:
    """What a request brings for its rule, among its sampling parameters."""
    return {"custom_params": {"temperature": temperature, "rule": astuple(rule)}}


def request_fields(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What else a request with such parameters has."""
    if "custom_params" not in parameters:
        return {}
    return {"custom_logit_processor": processor(), "top_logprobs_num": 1}


def temperatures_of(
    meta: Mapping[str, Any], parameters: Mapping[str, Any], num_tokens: int
) -> tuple[float, ...]:
    """The temperature of each token of an answer; none unless it was asked for with a rule.

    Raises:
        KeyError: the server has returned none.
        ValueError: they are not of these tokens.
    """
    if "custom_params" not in parameters or num_tokens == 0:
        return ()
    said, top = meta["tempering"], meta["output_top_logprobs"]
    if not len(said) == len(top) == num_tokens:
        raise ValueError(f"{len(said)} temperatures of {num_tokens} tokens")
    for (_, largest), ((found, *_), *_) in zip(said, top, strict=True):
        if abs(largest - found) > _TOLERANCE:
            raise ValueError(f"a temperature of a largest log-prob of {largest}, found {found}")
    return tuple(float(temperature) for temperature, _ in said)
