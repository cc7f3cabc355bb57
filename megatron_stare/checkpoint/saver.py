"""Writing checkpoints while training goes on; one at a time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megatron_stare.checkpoint.folders import (
    RUN_STATE,
    begin,
    commit,
    prune,
    records_of,
)
from megatron_stare.config.run import CheckpointConfig
from megatron_stare.errors import UserError
from megatron_stare.launch.background import Background
from megatron_stare.launch.rank_zero import from_rank_zero
from megatron_stare.policy.checkpoint import PolicyWrite, Written, begin_save
from megatron_stare.policy.staging import Staging
from megatron_stare.policy.step import Policy


class Saver:
    """Saves into `root`; every method is collective.

    Args:
        description: what every manifest says: config, layout, versions.
        report: tells the person at the console.
        on_complete: called on rank 0 with the step of every checkpoint that is there for good.
    """

    def __init__(
        self,
        root: Path,
        config: CheckpointConfig,
        description: Mapping[str, Any],
        report: Callable[[str], None],
        on_complete: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._root = root
        self._config = config
        self._description = description
        self._report = report
        self._on_complete = on_complete
        # The outcome: why it could not be written, if it could not.
        self._background: Background[Written | str] = Background()
        self._staging = Staging()
        self._step = 0
        self._folder = root
        self._policy_write: PolicyWrite | None = None

    @property
    def is_written(self) -> bool:
        """Whether this rank has nothing left to write."""
        return not self._background.is_used or self._background.is_done

    def save(self, step: int, policy: Policy, run_state: dict[str, Any]) -> None:
        """Begin with the checkpoint of a step; the policy waits with its next change for the copy.

        Args:
            run_state: plain values of rank 0, which are not changed from here on.
        """
        self.finish()
        self._step = step
        self._folder = from_rank_zero(lambda: begin(self._root, step))
        write = begin_save(policy, self._folder, self._staging)
        self._policy_write = write
        self._background.start(lambda: self._write(write, run_state))
        if not self._config.asynchronous:
            self.finish()

    def finish(self) -> None:
        """Wait for what is being written, and make a checkpoint of it.

        One that cannot be written is reported and given up: those before it stay.
        """
        if self._policy_write is None:
            return
        ours, is_first = self._background.result(), dist.get_rank() == 0
        outcomes: list[Any] = [None] * dist.get_world_size() if is_first else []
        dist.gather_object(ours, outcomes if is_first else None)
        write, self._policy_write = self._policy_write, None
        try:
            from_rank_zero(lambda: self._commit(write, outcomes))
        except UserError as error:
            self._give_up(str(error))

    def close(self) -> None:
        """Leave what is being written unfinished, when the run has failed."""
        self._background.stop(lambda: None)

    def _write(self, write: PolicyWrite, run_state: dict[str, Any]) -> Written | str:
        try:
            written = write.write()
            if dist.get_rank() == 0:
                path = self._folder / RUN_STATE
                torch.save(run_state, path)
                written.files.update(records_of([path]))
            return written
        except (OSError, RuntimeError) as error:  # torch.save has its own for a full disk.
            return str(error)

    def _commit(self, write: PolicyWrite, outcomes: list[Written | str]) -> None:
        if problems := [outcome for outcome in outcomes if isinstance(outcome, str)]:
            raise UserError(problems[0])
        ranks = [outcome for outcome in outcomes if isinstance(outcome, Written)]
        files = {name: record for rank in ranks for name, record in rank.files.items()}
        try:
            write.write_index([rank.places for rank in ranks])
            index = [path for path in self._folder.iterdir() if path.name not in files]
            manifest = {"step": self._step, "saved_at_unix_s": time.time(), **self._description}
            commit(self._folder, manifest, {**files, **records_of(index)})
        except OSError as error:
            raise UserError(str(error)) from None
        prune(self._root, keep_last=self._config.keep_last, keep_every=self._config.keep_every)
        self._on_complete(self._step)

    def _give_up(self, problem: str) -> None:
        self._report(f"no checkpoint of step {self._step}: {problem}; those before it stay")
        if dist.get_rank() == 0:
            shutil.rmtree(self._folder, ignore_errors=True)
