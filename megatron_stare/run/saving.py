"""A run that can be stopped at any step and goes on from there: of all commands that train."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from megatron_stare.checkpoint.folders import CHECKPOINTS, marks_of
from megatron_stare.checkpoint.lock import RunLock
from megatron_stare.checkpoint.resume import Resumed, network_of
from megatron_stare.checkpoint.run_folder import CONFIG, remove_leavings
from megatron_stare.checkpoint.saver import Saver
from megatron_stare.config.run import CheckpointConfig
from megatron_stare.config_io import to_yaml
from megatron_stare.errors import Stopped, UserError
from megatron_stare.launch.rank_zero import common_error, from_rank_zero
from megatron_stare.observe.history import CUT_FILE_NAME, has_metrics
from megatron_stare.observe.loggers import LogPosition
from megatron_stare.policy.checkpoint import load_policy
from megatron_stare.run.banner import lines_of_end, lines_of_start
from megatron_stare.run.session import LoopConfig, Session, World
from megatron_stare.system.folders import write_whole
from megatron_stare.system.output import make_folder, writing
from megatron_stare.system.signals import StopRequest

_PACKAGES = ("megatron-stare", "megatron-core", "torch", "transformers")

State = Callable[[], dict[str, Any]]
"""What a loop goes on with besides its session, as plain values; asked for on rank 0."""


@dataclass(slots=True)
class Saving:
    """The checkpoints of a run of `num_steps`; `step` is that of the last. Methods are collective.

    Leaving `keep_saving` waits for what is being written, unless by an error.
    """

    config: CheckpointConfig
    session: Session
    saver: Saver
    stop: StopRequest
    num_steps: int
    lock: RunLock
    step: int = 0

    def save_if_due(self, step: int, state: State) -> None:
        """Save a run whose last update was that of `step`, as often as the config says.

        Raises:
            Stopped: any rank was asked to stop; the run is saved.
            UserError: the run's folder is not its own any more.
        """
        from_rank_zero(self.lock.check_held)
        with self.session.phase("checkpoint"):
            must_stop, is_writing = self._on_any_rank(self.stop.is_set, not self.saver.is_written)
            if not is_writing:
                self.saver.commit()
        if must_stop:
            self.save_and_stop(step, state)
        every = self.config.every
        if every > 0 and step > self.step and (step % every == 0 or step == self.num_steps):
            self._save(step, state)

    def save_and_stop(self, step: int, state: State) -> NoReturn:
        """Raises Stopped, when the run is saved."""
        if step > self.step:
            self._save(step, state)
        self.saver.finish()
        self.session.loggers.message(f"asked to stop: stopped after step {step}")
        raise Stopped

    def resume(self, resumed: Resumed) -> None:
        """Have the session stand where the saved run stood."""
        self.step = resumed.checkpoint.step
        with resumed.reading() as state:
            self.session.load_state_dict(state["session"])
        load_policy(
            self.session.policy,
            resumed.checkpoint.folder,
            is_same_world=resumed.checkpoint.manifest.get("world_size")
            == self.session.topology.world_size,
        )
        if (name := self.session.policy.spoiled_weight()) is not None:
            raise common_error(
                f"{resumed.checkpoint.folder}: {name} is not finite, or far too large: "
                "remove this checkpoint to go on from the one before"
            )
        changes = "".join(f"\n    {line}" for line in resumed.changes)
        self.session.loggers.message(
            f"going on after step {self.step}, from {resumed.checkpoint.folder}"
            + (f"; changed in the config:{changes}" if changes else "")
        )

    def _save(self, step: int, state: State) -> None:
        self.session.check_policy(step)
        self.step = step
        whole: dict[str, Any] = {}
        if self.session.topology.rank == 0:
            whole = {"session": self.session.state_dict(), **state()}
        with self.session.phase("checkpoint"):
            self.saver.save(step, self.session.policy, whole)

    def _on_any_rank(self, *conditions: bool) -> list[bool]:
        flags = torch.tensor(conditions, dtype=torch.int32, device=self.session.topology.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return flags.bool().tolist()


@contextmanager
def keep_saving(
    config: LoopConfig,
    world: World,
    session: Session,
    stop: StopRequest,
    *,
    num_steps: int,
    on_complete: Callable[[int], None] = lambda _: None,
) -> Iterator[Saving]:
    """The checkpoints of a run in its folder, where it stands at the newest if it goes on.

    Args:
        on_complete: called with the step of every checkpoint that is there for good, in a thread of
            rank 0.

    Raises:
        UserError: at the end, where the last model could not be written.
    """
    description = {
        "world_size": world.topology.world_size,
        "versions": {name: version(name) for name in _PACKAGES},
        "model": network_of(world.shape),
        "config": config.model_dump(mode="json"),
    }
    saver = Saver(
        config.run.dir / CHECKPOINTS,
        config.checkpoint,
        description,
        world.loggers.message,
        on_complete,
    )
    saving = Saving(config.checkpoint, session, saver, stop, num_steps, world.lock)
    try:
        if world.resumed is not None:
            saving.resume(world.resumed)
        yield saving
        saver.finish()
        session.check_exported()
        for line in lines_of_end(config):
            world.loggers.message(line)
    finally:
        saver.close()


def open_folder(config: LoopConfig, world: World) -> None:
    """Here a run begins to write: every check of its start has passed. Collective.

    It holds the folder from here to the end of `open_world`. Nothing before this touches it, so
    that a start that is refused harms no run that stands there, and leaves no folder behind.

    Raises:
        UserError: the folder cannot be made or written, or another run has got there first.
    """
    from_rank_zero(lambda: _open_folder(config, world))


def _open_folder(config: LoopConfig, world: World) -> None:
    folder, position = config.run.dir, _log_position(world.resumed)
    made = make_folder(folder, "run.dir")
    try:
        world.lock.take()
        if marks_of(folder / CHECKPOINTS) != world.found:
            raise UserError(
                f"{folder}: another run has saved there meanwhile; expected a run at a time"
            )
        with writing(folder, "run.dir"):
            remove_leavings(folder)
            if world.resumed is None and has_metrics(folder):
                world.loggers.message(
                    f"{folder}: no checkpoint to go on from, the run begins anew; the metrics "
                    f"that are there go to {CUT_FILE_NAME}"
                )
            world.loggers.open_files(config.log, folder, config.model_dump(mode="json"), position)
            write_whole(folder / CONFIG, to_yaml(config))
        for line in lines_of_start(config, world):
            world.loggers.message(line)
    except BaseException:
        world.lock.release()
        for path in made:
            with suppress(OSError):  # Not empty.
                path.rmdir()
        raise


def _log_position(resumed: Resumed | None) -> LogPosition:
    """Where the logs go on; a run from the start begins them anew."""
    if resumed is None:
        return LogPosition(0, 0)
    with resumed.reading() as state:
        position = LogPosition(resumed.checkpoint.step, **state["session"]["loggers"])
        if type(position.metrics_bytes) is not int or position.metrics_bytes < 0:
            raise ValueError(f"metrics_bytes={position.metrics_bytes!r}")
        return position
