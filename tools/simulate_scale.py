"""What partial rollouts, one step off and balanced packing buy, from 64 to 1,024 GPUs.

    python tools/simulate_scale.py [--gpus 64 128 ...] [--prompts N] [--steps 8] [section.key=value]

Steps of a recipe in simulated time (docs/plan.md says what is the program's own code there, and
what is assumed). The batch grows with the GPUs, a group for each, or is fixed by --prompts; a
quarter of the GPUs train. Prints a Markdown table:
    s/step      from one batch to the next
    generate, train, sync   of it; one step off, the first two at the same time
    speed       tokens of batches a second, over those of the first row
    wait        share of the step in which the trainers have nothing to do
    generated   tokens that the servers generate for one that is trained on
    staleness   mean, in steps
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import megatron_stare.policy  # noqa: F401  (brings in Megatron-Core the way it has to be)

# isort: split
from matplotlib import rc_context
from matplotlib.figure import Figure

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.rollout import RolloutConfig
from megatron_stare.config_io import load_config
from megatron_stare.data.packing import MicroBatches
from megatron_stare.observe.drawing import PALETTE, STYLE, save_figure
from megatron_stare.plan.hardware import GPUS, read_assumptions
from megatron_stare.plan.job import Job, open_job
from megatron_stare.plan.report import table
from megatron_stare.plan.timeline import StepTime, simulate_steps
from megatron_stare.plan.training import Packing, balanced
from megatron_stare.plan.weights import tabulated_elements

REPO = Path(__file__).parents[1]
RECIPE = REPO / "examples" / "qwen2.5_32b_long_cot"


def in_order(
    samples: Sequence[int], lengths: Sequence[int], costs: Sequence[float], dp: int, budget: int
) -> list[MicroBatches]:
    """Samples dealt to ranks, and put into micro-batches, as they come."""
    ranks: list[MicroBatches] = []
    for rank in range(dp):
        micro_batches: list[list[int]] = [[]]
        for sample in samples[rank::dp]:
            if sum(lengths[i] for i in micro_batches[-1]) + lengths[sample] > budget:
                micro_batches.append([])
            micro_batches[-1].append(sample)
        ranks.append([tuple(micro_batch) for micro_batch in micro_batches])
    most = max(len(rank) for rank in ranks)
    return [[*rank, *[()] * (most - len(rank))] for rank in ranks]


@dataclass(frozen=True, slots=True)
class Mode:
    """How a run generates and packs, in place of what the recipe says."""

    name: str
    rollout: dict[str, Any]
    packing: Packing = balanced


IN_TURN = {
    "oversampling": 1.0,
    "partial_rollouts": False,
    "one_step_off": False,
    "max_staleness": 1,
}
PARTIAL = IN_TURN | {"oversampling": 2.0, "partial_rollouts": True, "max_staleness": 2}
MODES = (
    Mode("in turn, packed in order", IN_TURN, in_order),
    Mode("+ balanced packing", IN_TURN),
    Mode("+ oversampling 2", IN_TURN | {"oversampling": 2.0}),
    Mode("+ partial rollouts", PARTIAL),
    Mode("+ one step off", PARTIAL | {"one_step_off": True, "max_staleness": 3}),
    Mode("one step off alone", IN_TURN | {"one_step_off": True}),
)


@dataclass(frozen=True, slots=True)
class Row:
    """Means over the steps of a mode on so many GPUs."""

    num_gpus: int
    mode: Mode
    steps: list[StepTime]

    def mean(self, value: str) -> float:
        """Over the steps."""
        return mean(getattr(step, value) for step in self.steps)

    @property
    def tokens_s(self) -> float:
        """Tokens of batches a second."""
        return self.mean("tokens") / self.mean("step")


def job_of(num_gpus: int, overrides: Sequence[str], gpu: str, assume: Sequence[str]) -> Job:
    config = load_config(
        TrainConfig,
        RECIPE / "train.yaml",
        [f"model.path={RECIPE / 'model'}", *overrides],
    )
    return open_job(
        config,
        GPUS[gpu],
        num_gpus=num_gpus,
        num_generators=num_gpus * 3 // 4,
        server_gpus=4,
        assumptions=read_assumptions(assume),
    )


def simulate(job: Job, mode: Mode, num_steps: int) -> Row:
    rollout = job.rollout.model_dump() | mode.rollout
    held = tabulated_elements(job.entries, job.parallel, 0, job.num_trainers)
    steps = simulate_steps(
        job,
        held,
        num_steps=num_steps,
        rollout=RolloutConfig.model_validate(rollout),
        packing=mode.packing,
    )
    return Row(job.num_trainers + job.num_generators, mode, steps)


def cells(row: Row, first: Row) -> list[str]:
    train = mean(step.training.total for step in row.steps)
    return [
        str(row.num_gpus),
        row.mode.name,
        f"{row.mean('step'):.0f}",
        f"{row.mean('generate'):.0f}",
        f"{train:.0f}",
        f"{row.mean('sync'):.0f}",
        f"{row.tokens_s / first.tokens_s:.2f}",
        f"{100 * row.mean('waiting_share'):.0f}%",
        f"{row.mean('generated') / row.mean('response_tokens'):.2f}",
        f"{row.mean('staleness'):.2f}",
    ]


HEAD = ["GPUs", "mode", "s/step", "generate", "train", "sync", "speed", "wait"]
HEAD += ["generated", "staleness"]


def draw(rows: Sequence[Row], path: Path) -> None:
    """Tokens a second and GPU over GPUs, a line a mode."""
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axes = figure.subplots()
        for colour, mode in zip(PALETTE, MODES, strict=False):
            found = [row for row in rows if row.mode == mode]
            sizes = [row.num_gpus for row in found]
            rates = [row.tokens_s / row.num_gpus for row in found]
            axes.plot(sizes, rates, color=colour, marker="o", markersize=4, label=mode.name)
        axes.set_xscale("log", base=2)
        sizes = sorted({row.num_gpus for row in rows})
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set(xlabel="GPUs", title="Trained tokens a second and GPU")
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside right upper")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="of the recipe")
    parser.add_argument("--gpus", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--prompts", type=int, help="groups in a batch (default: one a GPU)")
    parser.add_argument("--gpu", choices=GPUS, default="h100-80")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--assume", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path, default=REPO / "docs" / "figures" / "scale.png")
    arguments = parser.parse_args()
    rows: list[Row] = []
    shown: list[list[str]] = []
    for num_gpus in arguments.gpus:
        prompts = f"rollout.prompts_per_step={arguments.prompts or num_gpus}"
        overrides = [prompts, *arguments.overrides]
        job = job_of(num_gpus, overrides, arguments.gpu, arguments.assume)
        of_size = [simulate(job, mode, arguments.steps) for mode in MODES]
        rows += of_size
        shown += [cells(row, of_size[0]) for row in of_size]
    print(table(HEAD, shown))
    draw(rows, arguments.out)
    print(f"\n{arguments.out}")


if __name__ == "__main__":
    main()
