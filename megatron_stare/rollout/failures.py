"""Verifications that fail, and a verifier that does nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from megatron_stare.errors import UserError
from megatron_stare.types import Group

BROKEN_SHARE = 0.9
"""Of verifications that fail: from here on it is the verifier that is at fault."""


def failures_of(groups: Sequence[Group]) -> str | None:
    """How many verifications failed, and with what most often; None if all went well."""
    rewards = [reward for group in groups for reward in group.rewards]
    failures = Counter(reward.failure for reward in rewards if reward.failure is not None)
    if not failures:
        return None
    (reason, count), *_ = failures.most_common(1)
    return (
        f"{failures.total()} of {len(rewards)} verifications failed, {count} of them with: {reason}"
    )


def count_failures(groups: Sequence[Group]) -> int:
    """How many verifications failed."""
    return sum(reward.failure is not None for group in groups for reward in group.rewards)


def check_verifier(groups: Sequence[Group]) -> None:
    """See that verifications do not fail throughout.

    Args:
        groups: all that were judged.

    Raises:
        UserError: (nearly) all of them have failed.
    """
    num_judgements = sum(len(group.rewards) for group in groups)
    if num_judgements and count_failures(groups) >= BROKEN_SHARE * num_judgements:
        raise UserError(f"reward.kind: {failures_of(groups)}; expected a verifier that judges")
