"""How responses are judged."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from megatron_stare.system.settings import Settings
from megatron_stare.system.values import CountOrZero, Seconds, Weight, one_of_or_own

VERIFIERS = {
    "math": "megatron_stare.rewards.math:math_reward",
    "exact": "megatron_stare.rewards.answers:exact_reward",
}
"""Functions of (response, answer) by `reward.kind`; any other kind names one itself."""


def _checked_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f"expected a regular expression, found {pattern!r:.80} ({error})"
        ) from None
    if not pattern:
        raise ValueError("expected a regular expression, or null for none, found ''")
    return pattern


VerifierName = Annotated[
    str,
    AfterValidator(one_of_or_own(VERIFIERS, "a function of your own as package.module:function")),
]
Pattern = Annotated[str, AfterValidator(_checked_pattern)]


class RewardConfig(Settings):
    """How a response is judged."""

    kind: VerifierName = "math"
    """`math`, `exact`, or a function of your own, `package.module:function(response, answer)`."""
    format_pattern: Pattern | None = None
    """Regular expression a response must match in full; None asks for no format."""
    format_sees: Literal["response", "prefill+response"] = "prefill+response"
    """What it is matched against; the prefill is what the template has begun a response with."""
    format_reward: float = Field(default=0.0, ge=-1_000_000, le=1_000_000)
    """Added when the format matches."""
    deadline_s: Seconds = 10.0
    """Seconds a verification may take before its process is killed."""
    on_deadline: Literal["wrong", "leave_out"] = "wrong"
    """Of a response whose verification takes longer: worth 0, or without a verdict, left out of
    its group."""
    memory_gib: float = Field(default=2.0, ge=0.01, le=1_000_000)
    """Memory a verification may add before its process is killed."""
    workers: int = Field(default=2, ge=1, le=4096)
    """Verifier processes."""
    isolation: Literal["worker", "process"] = "worker"
    """Verifications of one worker share its process, or have a fresh one each: for a verifier that
    executes what a policy wrote."""
    overlong_buffer_tokens: CountOrZero = 0
    """DAPO's soft overlong penalty over the last tokens before the length limit; 0 is off."""
    overlong_factor: Weight = 1.0
    """Largest overlong penalty."""

    @model_validator(mode="after")
    def _format_is_asked_for(self) -> RewardConfig:
        if self.format_reward and self.format_pattern is None:
            raise ValueError(
                f"format_reward={self.format_reward:g} with format_pattern=null: nobody would get "
                "it, expected a format_pattern, or 0"
            )
        return self
