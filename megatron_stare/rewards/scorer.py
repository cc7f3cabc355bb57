"""Rewards of samples: a verdict from a killable process, plus shaping.

    value = verdict + format_reward (the format matches) + overlong penalty (0 to -overlong_factor)

Each source may have a verifier of its own, with a score from which its responses are right.

Where a source has an environment, the verdict is what a sample's turns have earned in it; where an
agent says what its episode has earned, it is that.

A sample whose verification ends otherwise gets no shaping, which would reward a crash. Where that
is the response's doing (`Ending`), it is wrong, value 0; else it is not judged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from types import MappingProxyType

import torch

from megatron_stare.algorithms.filters import overlong_penalty
from megatron_stare.config.algorithm import VERIFIERS, RewardConfig
from megatron_stare.config.data import DataConfig, SourceConfig
from megatron_stare.rewards.format import FormatWatch
from megatron_stare.rewards.pool import VerifierPool
from megatron_stare.rewards.verdict import Verdict
from megatron_stare.rewards.worker import Setup
from megatron_stare.turns import earned
from megatron_stare.types import Reward, Sample

_PLAYED = ""
"""Of a sample that its environment has judged, turn by turn: no verifier has this name."""


class Scorer:
    """Judges samples by `config`; a context manager that owns the verifier processes.

    Raises UserError at once where the function of `reward.kind`, or of a source, cannot be used.

    Args:
        data: where what is judged comes from, by key; its sources say what judges them.
        report: is told, once, what the user should know of the verifier.
        prefill: what prompts have begun responses with, for `reward.format_sees`.
    """

    def __init__(
        self,
        config: RewardConfig,
        data: Mapping[str, DataConfig] = MappingProxyType({}),
        *,
        max_response_tokens: int,
        report: Callable[[str], None] = lambda _: None,
        prefill: str = "",
    ) -> None:
        self._config = config
        self._max_response_tokens = max_response_tokens
        self._prefill = prefill if config.format_sees == "prefill+response" else ""
        self.format = FormatWatch(config.format_pattern, report)
        self._report = report
        self._sources = {name: each for one in data.values() for name, each in one.sources.items()}
        self._pools: dict[str, VerifierPool] = {}
        self._one_at_a_time = Lock()
        try:
            for key, kind in _kinds(config.kind, data).items():
                self._start_pool(kind, key)
        except BaseException:
            self.close()
            raise

    def _start_pool(self, kind: str, key: str) -> None:
        if kind in self._pools:
            return
        setup = Setup(
            function=VERIFIERS.get(kind, kind),
            format_pattern=self._config.format_pattern,
            memory_bytes=int(self._config.memory_gib * 2**30),
            import_path=tuple(sys.path),
            prefill=self._prefill,
            isolation=self._config.isolation,
        )
        self._pools[kind] = VerifierPool(
            setup,
            num_workers=self._config.workers,
            deadline_s=self._config.deadline_s,
            report=self._report,
            key=key,
        )
        self._pools[kind].start()

    @property
    def code(self) -> str:
        """A digest of the verifiers' code."""
        return " ".join(str(pool.code) for pool in self._pools.values())

    def score(self, samples: Sequence[Sample]) -> list[Reward]:
        """The reward of every sample, in their order; none is judged whose tools have failed.

        May be called from several threads, which then wait for each other.
        """
        with self._one_at_a_time:
            rewards = iter(self._judge([s for s in samples if s.finish_reason != "failed"]))
        return [
            Reward(0.0, 0.0, self._failure_of(sample), 0.0, is_judged=False)
            if sample.finish_reason == "failed"
            else next(rewards)
            for sample in samples
        ]

    def _judge(self, samples: Sequence[Sample]) -> list[Reward]:
        verdicts = self._verdicts(samples)
        pairs = zip(samples, verdicts, strict=True)
        judged = [v for s, v in pairs if v.failure is None and not self._is_played(s)]
        num_matching = sum(verdict.matches_format for verdict in judged)
        self.format.see(num_judged=len(judged), num_matching=num_matching)
        penalties = self._overlong_penalties(samples)
        return [
            self._reward(verdict, penalty, self._sources.get(sample.prompt.source))
            for sample, verdict, penalty in zip(samples, verdicts, penalties, strict=True)
        ]

    def _verdicts(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verifier after the other, each with all that are its own."""
        kinds = [self._kind_of(sample) for sample in samples]
        played = [Verdict(earned(s.turns), False, None, 0.0) for s in samples if self._is_played(s)]
        found = {_PLAYED: iter(played)}
        for kind in dict.fromkeys(kinds):
            if kind == _PLAYED:
                continue
            own = [sample for sample, k in zip(samples, kinds, strict=True) if k == kind]
            items = [(sample.final_text, sample.prompt.answer) for sample in own]
            found[kind] = iter(self._pools[kind].run(items))
        return [next(found[kind]) for kind in kinds]

    def _kind_of(self, sample: Sample) -> str:
        source = self._sources.get(sample.prompt.source)
        if sample.turns and sample.turns[-1].taken_as == "action":
            return _PLAYED
        if source is None:
            return self._config.kind
        return _PLAYED if source.environment else source.verifier_or(self._config.kind)

    def _is_played(self, sample: Sample) -> bool:
        return self._kind_of(sample) == _PLAYED

    def _failure_of(self, sample: Sample) -> str:
        failure = next((turn.failure for turn in reversed(sample.turns) if turn.failure), None)
        return f"{'environment' if self._is_played(sample) else 'tools'}: {failure}"

    def _reward(self, verdict: Verdict, penalty: float, source: SourceConfig | None) -> Reward:
        """`value` keeps the verdict; `correct` is it within [0, 1], or whether it is enough."""
        if verdict.failure is not None:
            is_left_out = verdict.ending == "lost" or (
                verdict.ending == "deadline" and self._config.on_deadline == "leave_out"
            )
            return Reward(0.0, 0.0, verdict.failure, verdict.seconds, not is_left_out)
        parts = {"verdict": verdict.value}
        if self._config.format_reward:
            parts["format"] = self._config.format_reward * verdict.matches_format
        if self._config.overlong_buffer_tokens:
            parts["overlong"] = penalty
        threshold = None if source is None else source.threshold
        correct = min(max(verdict.value, 0.0), 1.0)
        if threshold is not None:
            correct = float(verdict.value >= threshold)
        return Reward(sum(parts.values()), correct, None, verdict.seconds, parts=parts)

    def close(self) -> None:
        """End the verifier processes."""
        for pool in self._pools.values():
            pool.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _overlong_penalties(self, samples: Sequence[Sample]) -> list[float]:
        if self._config.overlong_buffer_tokens == 0:
            return [0.0] * len(samples)
        lengths = torch.tensor([sample.num_chosen for sample in samples])
        return overlong_penalty(
            lengths,
            self._max_response_tokens,
            self._config.overlong_buffer_tokens,
            self._config.overlong_factor,
        ).tolist()


def _kinds(kind: str, data: Mapping[str, DataConfig]) -> dict[str, str]:
    """What judges, by the keys that say so; `kind` is that of what says nothing."""
    kinds = {}
    for key, config in data.items():
        for name, source in config.sources.items():
            if source.environment:
                continue
            is_said = source.verifier is not None
            own = f"{key}.sources.{name}.{'verifier' if is_said else 'task'}"
            found = source.verifier_or(kind)
            kinds["reward.kind" if found == kind else own] = found
    is_asked = not data or any(not config.sources for config in data.values())
    return {"reward.kind": kind, **kinds} if is_asked else kinds
