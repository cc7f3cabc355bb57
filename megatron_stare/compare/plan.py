"""Which runs a comparison has, where each stands, and whether all of them can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from megatron_stare.checkpoint.run_folder import CONFIG, HF
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.compare import CompareConfig
from megatron_stare.config.loops import LOOPS, LoopConfig
from megatron_stare.config.yaml_text import read_yaml
from megatron_stare.config_io import load_one_of, to_yaml
from megatron_stare.errors import UserError
from megatron_stare.observe.history import has_metrics, read_metrics
from megatron_stare.run.preflight import check_run
from megatron_stare.system.nested import dotted
from megatron_stare.system.reading import read_whole

_MAY_DIFFER = ("slurm.", "log.", "checkpoint.", "reward.workers")
"""Keys that do not change what a run comes to."""
LOGGED = {
    "train": ("loss/total", "eval/avg_at_k"),
    "sft": ("sft/loss", ""),
    "prefer": ("loss/total", "eval/pairs_accuracy"),
}
"""By command, what each step logs, and each evaluation."""
_TELL_APART = ("run.dir", "run.seed", "algorithm.method")
"""Keys by which runs may differ and be the same."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run of a comparison: of the method or variant `name`."""

    name: str
    seed: int
    config: LoopConfig

    @property
    def title(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def folder(self) -> Path:
        """Its `run.dir`."""
        return self.config.run.dir

    @property
    def has_begun(self) -> bool:
        """Whether there is something of it."""
        return has_metrics(self.folder)

    @property
    def is_finished(self) -> bool:
        """Whether its last step is logged, and evaluated where the config asks for it; and whether
        its model is there."""
        if not (self.has_begun and (self.folder / HF / "final").is_dir()):
            return False
        history = read_metrics(self.folder)
        of_steps, of_evaluations = LOGGED[self.config.command]
        last = [of_steps, *([of_evaluations] if self.config.is_evaluated else [])]
        steps = self.config.loop.steps
        return all(name in history and history[name].steps[-1] == steps for name in last)


def plan_runs(config: CompareConfig) -> list[PlannedRun]:
    """The runs, those of a seed together: whatever ends the comparison early, pairs are whole.

    Raises:
        UserError: a run's config cannot be; the message names the run.
    """
    runs = []
    for seed in config.seeds:
        for name in config.arms:
            with _named(f"{name}-seed{seed}"):
                run = load_one_of(LOOPS, config.base, config.overrides(name, seed))
            runs.append(PlannedRun(name, seed, run))
    return runs


def check_settings(runs: Sequence[PlannedRun]) -> None:
    """See that no two runs of a seed are the same, and that what is there is of these settings.

    Raises:
        UserError: they are, or it is not.
    """
    for run in runs:
        if run.config.command != runs[0].config.command:
            raise UserError(
                f"{run.title} is of `{run.config.command}`, {runs[0].title} of "
                f"`{runs[0].config.command}`: expected runs of one command"
            )
    _check_different([run for run in runs if run.seed == runs[0].seed])
    for run in runs:
        _check_same_settings(run)


def check_runs_here(runs: Sequence[PlannedRun], num_places: int) -> None:
    """See, touching nothing, that the runs can start on this machine, a process each.

    Raises:
        UserError: one cannot, as `check_run` finds; or several would put their weights into the
            same servers.
    """
    _check_each(runs, lambda run: 1)
    if num_places > 1 and (on_servers := [run for run in runs if _is_on_servers(run)]):
        raise UserError(
            f"{on_servers[0].title}: rollout.engine=sglang with {num_places} runs at a time, which "
            "would put their weights into the same servers; expected jobs=1"
        )


def check_array(runs: Sequence[PlannedRun]) -> None:
    """See, touching nothing, that the runs can be a Slurm array.

    Raises:
        UserError: as `check_runs_here`; or their `slurm` sections differ or have a sweep.
    """
    _check_each(runs, lambda run: run.config.slurm.nodes * run.config.slurm.processes_per_node)
    for run in runs:
        slurm = run.config.slurm
        if slurm.sweep or slurm != runs[0].config.slurm:
            raise UserError(
                f"{run.title}: slurm differs from {runs[0].title}'s, or has a sweep: a comparison "
                "is one array; expected one `slurm` for all runs, without a sweep"
            )
        if urls := _servers_of(run):
            raise UserError(
                f"{run.title}: rollout.servers.urls={list(urls)}: runs of an array would put their "
                "weights into the same servers; expected a registry, with which each job starts "
                "its own"
            )


def _servers_of(run: PlannedRun) -> tuple[str, ...]:
    """Those that run already."""
    config = run.config
    return config.rollout.servers.urls if isinstance(config, TrainConfig) else ()


def _is_on_servers(run: PlannedRun) -> bool:
    return isinstance(run.config, TrainConfig) and run.config.rollout.engine == "sglang"


def _check_each(runs: Sequence[PlannedRun], processes: Callable[[PlannedRun], int]) -> None:
    for run in runs:
        with _named(run.title):
            check_run(run.config, processes(run))


@contextmanager
def _named(run: str) -> Iterator[None]:
    """What is wrong with a run's config is said of that run."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{run}: {error}") from None


def _check_different(runs: Sequence[PlannedRun]) -> None:
    seen: dict[str, str] = {}
    for run in runs:
        settings = str({k: v for k, v in _settings(run.config).items() if k not in _TELL_APART})
        if settings in seen:
            raise UserError(
                f"{run.name} and {seen[settings]} are the same run: their resolved configs differ "
                "in algorithm.method at most; expected others (algorithm.links and algorithm.policy"
                " of the base replace a method's own)"
            )
        seen[settings] = run.name


def _check_same_settings(run: PlannedRun) -> None:
    path = run.folder / CONFIG
    if not path.exists():
        return
    try:
        found = dict(dotted(read_yaml(read_whole(path).decode())))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: cannot read the config of the run ({error})") from None
    expected = _settings(run.config)
    for key in [*expected, *(found.keys() - expected.keys())]:
        if not key.startswith(_MAY_DIFFER) and found.get(key) != expected.get(key):
            raise UserError(
                f"{path}: {key} is {found.get(key)!r}, now it is {expected.get(key)!r}: runs of "
                "other settings are of no comparison with each other; expected another `dir`, or "
                "that the folder is removed"
            )


def _settings(config: LoopConfig) -> dict[str, object]:
    """As a run's config.yaml has them."""
    return dict(dotted(read_yaml(to_yaml(config))))
