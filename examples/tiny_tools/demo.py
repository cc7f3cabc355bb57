"""The demo: a warm-up on traces a seed, then GRPO and STARE from it, measured on new products.

    python -m examples.tiny_tools.demo [--seeds 1 2 3] [--runs FOLDER] [section.key=value ...]

Each seed makes its data, a warm-up (`sft-seedN`) and the two runs of compare.yaml from its weights,
at the same time. At the end FOLDER holds a table of all policies on products of no other file, a
figure, and the comparison of `megatron-stare compare`. Overrides are for the two runs. What is done
already is not done again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from examples.countdown.demo import compare, demo_arguments, fine_tune
from examples.tiny_tools.figure import write_figure
from examples.tiny_tools.make_data import make_data
from examples.tiny_tools.measure import markdown_table, measure_policy, paired_table
from megatron_stare.config.compare import CompareConfig
from megatron_stare.errors import UserError
from megatron_stare.system.folders import write_whole

HERE = Path(__file__).parent


def main() -> int:
    """Make the data, warm up, train, measure."""
    description = "GRPO and STARE with tools, from one warm-up."
    arguments = demo_arguments(description, Path("runs/tiny_tools"))
    try:
        for seed in arguments.seeds:
            make_data(arguments.runs / f"data-seed{seed}", seed)
            fine_tune(HERE / "sft.yaml", seed, arguments.runs)
        report(compare(HERE / "compare.yaml", arguments.seeds, arguments.runs, arguments.overrides))
    except UserError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return 0


def report(comparison: CompareConfig) -> None:
    """Table and figure of all policies of a comparison, the warm-ups among them."""
    folder, seeds = comparison.dir, comparison.seeds
    names: Sequence[str] = ("sft", *comparison.arms)
    measures = {
        (name, seed): measure_policy(
            folder / f"{name}-seed{seed}", folder / f"data-seed{seed}" / "test.jsonl"
        )
        for name in names
        for seed in seeds
    }
    table = markdown_table(measures) + "\n" + paired_table(measures, "stare", "grpo")
    write_whole(folder / "measures.md", table)
    runs = [comparison.folder(name, seed) for name in comparison.arms for seed in seeds]
    write_figure(runs, folder / "measures.png")
    print(f"\nproducts of no other file:\n\n{table}")
    print(f"table: {folder / 'measures.md'}\nfigure: {folder / 'measures.png'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
