"""Rewards of samples: a verdict from a killable process, plus shaping.

    value = verdict + format_reward (the format matches) + overlong penalty (0 to -overlong_factor)

A sample whose verification ends otherwise gets no shaping, which would reward a crash. Where that
is the response's doing (`Ending`), it is wrong, value 0; else it is not judged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch

from megatron_stare.algorithms.filters import overlong_penalty
from megatron_stare.config.algorithm import VERIFIERS, RewardConfig
from megatron_stare.rewards.format import FormatWatch
from megatron_stare.rewards.pool import VerifierPool
from megatron_stare.rewards.verdict import Verdict
from megatron_stare.rewards.worker import Setup
from megatron_stare.types import Reward, Sample


class Scorer:
    """Judges samples by `config`; a context manager that owns the verifier processes.

    Raises UserError at once where the function of `reward.kind` cannot be used.

    Args:
        report: is told, once, what the user should know of the verifier.
        prefill: what prompts have begun responses with, for `reward.format_sees`.
    """

    def __init__(
        self,
        config: RewardConfig,
        *,
        max_response_tokens: int,
        report: Callable[[str], None] = lambda _: None,
        prefill: str = "",
    ) -> None:
        self._config = config
        self._max_response_tokens = max_response_tokens
        setup = Setup(
            function=VERIFIERS.get(config.kind, config.kind),
            format_pattern=config.format_pattern,
            memory_bytes=int(config.memory_gib * 2**30),
            import_path=tuple(sys.path),
            prefill=prefill if config.format_sees == "prefill+response" else "",
            isolation=config.isolation,
        )
        self.format = FormatWatch(config.format_pattern, report)
        self._pool = VerifierPool(
            setup, num_workers=config.workers, deadline_s=config.deadline_s, report=report
        )
        self._pool.start()

    @property
    def code(self) -> str:
        """A digest of the verifier's code."""
        assert self._pool.code is not None, "it is started"
        return self._pool.code

    def score(self, samples: Sequence[Sample]) -> list[Reward]:
        """The reward of every sample, in their order."""
        verdicts = self._pool.run([(sample.text, sample.prompt.answer) for sample in samples])
        judged = [verdict for verdict in verdicts if verdict.failure is None]
        num_matching = sum(verdict.matches_format for verdict in judged)
        self.format.see(num_judged=len(judged), num_matching=num_matching)
        penalties = self._overlong_penalties(samples)
        return [
            self._reward(verdict, penalty)
            for verdict, penalty in zip(verdicts, penalties, strict=True)
        ]

    def _reward(self, verdict: Verdict, penalty: float) -> Reward:
        """`correct` is the verdict within [0, 1], so that accuracies are; `value` keeps it."""
        if verdict.failure is not None:
            is_left_out = verdict.ending == "lost" or (
                verdict.ending == "deadline" and self._config.on_deadline == "leave_out"
            )
            return Reward(0.0, 0.0, verdict.failure, verdict.seconds, not is_left_out)
        value = verdict.value + self._config.format_reward * verdict.matches_format + penalty
        return Reward(value, min(max(verdict.value, 0.0), 1.0), None, verdict.seconds)

    def close(self) -> None:
        """End the verifier processes."""
        self._pool.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _overlong_penalties(self, samples: Sequence[Sample]) -> list[float]:
        if self._config.overlong_buffer_tokens == 0:
            return [0.0] * len(samples)
        lengths = torch.tensor([len(sample.token_ids) for sample in samples])
        return overlong_penalty(
            lengths,
            self._max_response_tokens,
            self._config.overlong_buffer_tokens,
            self._config.overlong_factor,
        ).tolist()
