"""What turns earn by what they have found out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megatron_stare.system.settings import Settings


class TurnGainsConfig(Settings):
    """Rewards of turns that the policy's own log-probs give, where no environment says any."""

    of: Literal["answer", "next_turn"] | None = None
    """`answer`: a turn has gained what the row's answer became likelier by what came of the turn
    (arXiv 2510.14967); `next_turn`: what the turn behind it is likelier than if nothing had come of
    it (arXiv 2603.00656); both in nats a token. With None turns earn nothing by themselves."""
    closing: str = Field(default="The answer is ", min_length=1)
    """What stands between the turns so far and the answer, where the answer is scored."""
    as_probability: bool = False
    """The answer's gain in e to the mean log-prob instead of nats."""
    nothing: str = Field(default="No information found.", min_length=1)
    """What a turn is told of which nothing came."""
