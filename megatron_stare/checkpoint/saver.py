"""Writing checkpoints while training goes on; one at a time.

save      the plan of it; then every rank writes its files in a thread
commit    when all have: in a thread of rank 0 they become a checkpoint, and old ones go
finish    waits for all of it
"""

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
from megatron_stare.launch.rank_zero import from_rank_zero
from megatron_stare.policy.checkpoint import PolicyWrite, Written, begin_save
from megatron_stare.policy.staging import Staging
from megatron_stare.policy.step import Policy
from megatron_stare.system.background import Background


class Saver:
    """Saves into `root`; every method is collective.

    Args:
        description: what every manifest says: config, layout, versions.
        report: tells the person at the console.
        on_complete: called with the step of every checkpoint that is there for good, in a thread of
            rank 0.
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
        # The outcomes: why it could not be written, if it could not; and what is to be reported.
        self._writing: Background[Written | str] = Background()
        self._committing: Background[str | None] = Background()
        self._staging = Staging()
        self._step = 0
        self._folder = root
        self._policy_write: PolicyWrite | None = None

    @property
    def is_written(self) -> bool:
        """Whether this rank has nothing left to write."""
        return not self._writing.is_used or self._writing.is_done

    def save(self, step: int, policy: Policy, run_state: dict[str, Any]) -> None:
        """Begin with the checkpoint of a step; the policy waits with its next change for the copy.

        Args:
            run_state: plain values of rank 0, which are not changed from here on.
        """
        self.finish()
        self._step = step
        folder = from_rank_zero(self._begin)
        if folder is None:
            return
        self._folder = folder
        write = begin_save(policy, self._folder, self._staging)
        self._policy_write = write
        self._writing.start(lambda: self._write(write, run_state))
        if not self._config.asynchronous:
            self.finish()

    def _begin(self) -> Path | None:
        """The folder to write into; None where it cannot be made, which is reported."""
        try:
            return begin(self._root, self._step)
        except OSError as error:
            self._report(self._given_up(str(error)))
            return None

    def _given_up(self, problem: str) -> str:
        return f"no checkpoint of step {self._step}: {problem}; those before it stay"

    def commit(self) -> None:
        """Begin to make a checkpoint of what every rank has written; waits for a rank that has not.

        One that cannot be made is given up, which is reported by the next call: those before stay.
        """
        if self._policy_write is None:
            if self._committing.is_done:
                self._report_problem()
            return
        ours, is_first = self._writing.result(), dist.get_rank() == 0
        outcomes: list[Any] = [None] * dist.get_world_size() if is_first else []
        dist.gather_object(ours, outcomes if is_first else None)
        write, self._policy_write = self._policy_write, None
        if is_first:
            self._committing.start(lambda: self._commit(write, outcomes))

    def finish(self) -> None:
        """Wait until there is a checkpoint of what was saved last, or none can be made."""
        self.commit()
        from_rank_zero(self._report_problem)

    def close(self) -> None:
        """Leave what is being written unfinished, when the run has failed."""
        self._writing.stop(lambda: None)
        self._committing.stop(lambda: None)

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

    def _commit(self, write: PolicyWrite, outcomes: list[Written | str]) -> str | None:
        problem = next((outcome for outcome in outcomes if isinstance(outcome, str)), None)
        if problem is None:
            problem = self._make_checkpoint(write, [o for o in outcomes if isinstance(o, Written)])
        if problem is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            return self._given_up(problem)
        try:
            prune(self._root, keep_last=self._config.keep_last, keep_every=self._config.keep_every)
            self._on_complete(self._step)
        except OSError as error:
            return f"what the checkpoint of step {self._step} replaces cannot be removed: {error}"
        return None

    def _make_checkpoint(self, write: PolicyWrite, ranks: list[Written]) -> str | None:
        files = {name: record for rank in ranks for name, record in rank.files.items()}
        try:
            write.write_index([rank.places for rank in ranks])
            index = [path for path in self._folder.iterdir() if path.name not in files]
            manifest = {"step": self._step, "saved_at_unix_s": time.time(), **self._description}
            commit(self._folder, manifest, {**files, **records_of(index)})
        except (OSError, RuntimeError) as error:
            return str(error)
        return None

    def _report_problem(self) -> None:
        if self._committing.is_used and (problem := self._committing.result()) is not None:
            self._report(problem)
