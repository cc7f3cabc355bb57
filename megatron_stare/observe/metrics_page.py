"""The glossary of metrics as a page of the documentation.

`python -m megatron_stare.observe.metrics_page > docs/metrics.md` prints it.
"""

from __future__ import annotations

from itertools import groupby

from megatron_stare.algorithms.table import PARTS
from megatron_stare.observe.metrics import METRICS

GROUPS: dict[str, str] = {
    **{
        name.partition("/")[0]: f"What `{part}` measured and decided (docs/methods.md)."
        for part, kind in PARTS.items()
        for name in kind.metrics
    },
    "entropy": "How random the policy is, before the update of the step.",
    "quadrant": "Loss tokens by the sign of their advantage and their surprisal: high where it is "
    "in the top share of its sign, whose threshold stands for the critical surprisal, else low. "
    "Reinforcing a high-surprisal token raises entropy, a low-surprisal one lowers it; "
    "discouraging does the opposite. A share is of all loss tokens.",
    "reward": "Verdicts on the samples of the step.",
    "rollout": "Generation: where the prompts of the step went, and how long responses are.",
    "source": "Prompts of each source, where there are several (docs/sources.md).",
    "turns": "Episodes with tools: turns of the model, and how episodes ended, of every generated "
    "sample. The endings add up to the samples.",
    "tools": "Calls of tools in them.",
    "loss": "The objective, over the loss tokens of the global batch.",
    "mismatch": "How far the trainer's log-probs are from those the engine sampled with.",
    "optim": "The optimizer.",
    "time": "Wall time of the phases of a step.",
    "perf": "Throughput.",
    "eval": "Held-out problems.",
    "sft": "Supervised fine-tuning.",
    "pairs": "Pairs of a better and a worse response, under the policy before the update; means "
    "over the pairs of a step. A reward is what the method reads from log-probs (docs/prefer.md).",
    "own": "What links of your own report (docs/methods.md).",
}


def _group(name: str) -> str:
    return name.partition("/")[0]


def glossary() -> str:
    """The glossary as Markdown, a table per group."""
    parts = [
        "# Metrics\n",
        "A step appends a line to `metrics.jsonl` in the run folder: a JSON object with `step`,",
        "`unix_time_s` and the metrics below. W&B, TensorBoard and the report use the same names.",
        "A value that is not finite is written as `null`.",
    ]
    order = [*dict.fromkeys(map(_group, METRICS))]
    names_in_order = sorted(METRICS, key=lambda name: order.index(_group(name)))
    for group, names in groupby(names_in_order, _group):
        parts += [
            f"\n## {group}\n",
            f"{GROUPS[group]}\n",
            "| metric | unit | meaning |",
            "|---|---|---|",
        ]
        for name in names:
            metric = METRICS[name]
            parts.append(f"| `{name}` | {metric.unit} | {metric.description} |")
    return "\n".join(parts)


if __name__ == "__main__":
    print(glossary())
