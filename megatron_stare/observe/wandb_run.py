"""A run of Weights & Biases, named after the run's folder, its files under `run_dir/wandb`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from megatron_stare.config.run import LogConfig
from megatron_stare.errors import UserError
from megatron_stare.observe.trackers import TrackerLogger


class WandbRun:
    """A `Tracker`. W&B writes in a process of its own, which may be lost."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics under their own names; parts of a step are merged, and one from before is not
        recorded again."""
        self._run.log(metrics, step=step)

    def close(self) -> None:
        """Finish the run; in online mode, wait for the upload."""
        self._run.finish()


def open_wandb(
    log: LogConfig,
    run_dir: Path,
    resolved_config: dict[str, Any],
    run_id: str | None,
    report: Callable[[str], None],
) -> TrackerLogger:
    """The run, or the one of an id again, whose `state_dict` is that id.

    Raises:
        UserError: W&B does not start.
    """
    import wandb
    from wandb.errors import Error

    try:
        run = wandb.init(
            project=log.wandb_project,
            entity=log.wandb_entity,
            group=log.wandb_group,
            tags=list(log.wandb_tags) or None,
            notes=log.wandb_notes,
            id=run_id,
            resume="allow",
            name=run_dir.name,
            dir=run_dir,
            mode=log.wandb_mode,
            config=resolved_config,
            # Capturing the console would take the terminal away from the progress bars.
            settings=wandb.Settings(silent=True, console="off"),
        )
    except (Error, OSError) as error:
        raise UserError(
            f"log.wandb_project={log.wandb_project!r}: W&B did not start ({error}); "
            "expected a login, or log.wandb_mode=offline"
        ) from None
    return TrackerLogger("W&B", WandbRun(run), report, {"wandb_id": run.id})
