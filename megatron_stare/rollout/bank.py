"""The rollout bank: what a step has generated, kept on disk until a checkpoint is past the step.

    bank/
      step_000018.bank  whose it is; then finished samples and verdicts, in the order they came

A run that goes on from an earlier checkpoint comes past the same steps once more, and finds its
samples there. They are the ones that it would generate again: those of another lineage (other
weights, data, settings, or another course of the steps before) are thrown away.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from megatron_stare.system.records import RecordFile
from megatron_stare.turns import turns_from_plain, turns_to_plain
from megatron_stare.types import Prompt, Reward, Sample

Key = tuple[str, int]
"""Of a sample in a step: its prompt's uid, and its index."""

_HEAD = {"uid", "index", "text", "finish_reason", "seconds", "num_tokens", "temperatures"}
_NAME = re.compile(r"step_([0-9]{6,18})\.bank")
_ARRAYS = (
    ("token_ids", np.dtype("<i8")),
    ("logprobs", np.dtype("<f8")),
    ("loss_mask", np.dtype("?")),
    ("weight_versions", np.dtype("<i4")),
)


def key_of(sample: Sample) -> Key:
    """What a sample is known by in its step."""
    return sample.prompt.uid, sample.index


@dataclass(frozen=True, slots=True)
class Banked:
    """A finished sample without its prompt, as plain values."""

    fields: dict[str, Any]

    @property
    def versions(self) -> set[int]:
        """See `Sample`."""
        return set(compress(self.fields["weight_versions"], self.fields["loss_mask"]))

    def sample(self, prompt: Prompt) -> Sample:
        """The sample, of the prompt that it is asked for."""
        return Sample(prompt=prompt, **self.fields)


class Bank:
    """Samples and verdicts of one step at a time; `lineage` says what else they depend on.

    Nothing here ends a run: where the bank cannot be written, that is reported once, and the steps
    go on without until it can be.
    """

    def __init__(self, folder: Path, lineage: str, report: Callable[[str], None]) -> None:
        self._folder = folder
        self._lineage = lineage
        self._report = report
        self._file: RecordFile | None = None
        self._is_outage = False
        self.step = 0
        self.samples: dict[Key, Banked] = {}
        """In the order they were finished."""
        self._rewards: dict[Key, Reward] = {}

    def begin(self, step: int, cursor: dict[str, Any]) -> None:
        """Turn to a step, and read what it had generated before.

        Args:
            cursor: where its prompts are drawn from; another one belongs to another lineage.
        """
        if self._file is not None:  # All of the step before could be written.
            self._is_outage = False
        self.close()
        self.step = step
        self.samples.clear()
        self._rewards.clear()
        where = hashlib.blake2b(json.dumps(cursor, sort_keys=True).encode(), digest_size=16)
        header = {"lineage": self._lineage, "cursor": where.hexdigest()}
        try:
            self._file = RecordFile(self._path(step), json.dumps(header, sort_keys=True).encode())
        except OSError as error:
            self._give_up(error)
            return
        for number, record in enumerate(self._file.found):
            try:
                self._read(record)
            except (ValueError, KeyError, TypeError):  # Whole, but no record of a bank.
                self._file.keep(number)
                break
        self._file.found.clear()

    def add_sample(self, sample: Sample) -> None:
        """Keep a finished sample; it takes the place of one before."""
        head, arrays = _sample_record(sample)
        self._write(head, arrays)

    def add_rewards(self, samples: Sequence[Sample], rewards: Sequence[Reward]) -> None:
        """Keep the verdicts of samples that are in the bank."""
        pairs = zip(samples, rewards, strict=True)
        self._write({"rewards": [[*key_of(sample), asdict(reward)] for sample, reward in pairs]})

    def reward_of(self, sample: Sample) -> Reward | None:
        """The verdict on a sample that came from the bank, if there was one."""
        return self._rewards.get(key_of(sample))

    def forget_sample(self, key: Key) -> None:
        """Leave out a sample, and its verdict, in favour of one that is to come."""
        self.samples.pop(key, None)
        self._rewards.pop(key, None)

    def forget_steps(self, through: int | None = None) -> None:
        """Remove steps up to one that a checkpoint is past; all without one."""
        for path in self._folder.glob("step_*.bank"):
            name = _NAME.fullmatch(path.name)
            if name and path.is_file() and (through is None or int(name[1]) <= through):
                self._remove(path)

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._report(f"{path}: is not needed, and cannot be removed ({error.strerror})")

    def close(self) -> None:
        """Have what was kept reach the disk."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _path(self, step: int) -> Path:
        return self._folder / f"step_{step:06d}.bank"

    def _write(self, head: dict[str, Any], arrays: bytes = b"") -> None:
        if self._file is not None:
            try:
                self._file.append(json.dumps(head).encode() + b"\n" + arrays)
            except OSError as error:
                self.close()
                self._give_up(error)

    def _read(self, record: bytes) -> None:
        head, _, arrays = record.partition(b"\n")
        fields = dict(json.loads(head))
        if "rewards" in fields:
            rewards = {(uid, index): Reward(**reward) for uid, index, reward in fields["rewards"]}
            self._rewards |= rewards
            return
        if fields.keys() - {"turns"} != _HEAD:
            raise ValueError("no sample")
        fields |= turns_from_plain(fields)
        key = (fields.pop("uid"), fields["index"])
        fields["temperatures"] = tuple(fields["temperatures"])
        sample = Banked(fields | _read_arrays(arrays, fields.pop("num_tokens")))
        self.forget_sample(key)
        self.samples[key] = sample

    def _give_up(self, error: OSError) -> None:
        if not self._is_outage:
            self._report(
                f"no rollout bank from step {self.step} on: {error}; a crash would cost a step"
            )
        self._is_outage = True


def _sample_record(sample: Sample) -> tuple[dict[str, Any], bytes]:
    head = {
        "uid": sample.prompt.uid,
        "index": sample.index,
        "text": sample.text,
        "finish_reason": sample.finish_reason,
        "seconds": sample.seconds,
        "num_tokens": len(sample.token_ids),
        "temperatures": sample.temperatures,
        **turns_to_plain(sample.turns),
    }
    return head, b"".join(np.array(getattr(sample, name), d).tobytes() for name, d in _ARRAYS)


def _read_arrays(content: bytes, num_tokens: int) -> dict[str, tuple]:
    if len(content) != num_tokens * sum(dtype.itemsize for _, dtype in _ARRAYS):
        raise ValueError(f"{len(content)} bytes are not of {num_tokens} tokens")
    arrays, start = {}, 0
    for name, dtype in _ARRAYS:
        arrays[name] = tuple(np.frombuffer(content, dtype, num_tokens, start).tolist())
        start += num_tokens * dtype.itemsize
    return arrays
