"""How full micro-batches are and how equal data-parallel ranks, next to padded batches.

    python tools/bench_packing.py [--recorded FILE] [--steps 10]

Steps of 512 samples (64 prompts x 8), with the shape of a Qwen2.5-7B. Prints a Markdown table:
    fill       tokens / (budget x micro-batches x ranks), all ranks having as many micro-batches as
               the one that needs most; the last, partly filled ones count. Mean over steps.
    bound      the same if the micro-batches of a rank were only rounded up to a whole number
    imbalance  cost of the dearest rank / mean - 1, by forward FLOPs; the worst of the steps
for this project's plan; for the same one balanced by tokens alone; and for padded batches: samples
in batch order, as many a batch as fit the budget at the longest length there can be, each padded to
the longest of its batch. `plan` is for all ranks of a step, median.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median

from transformers import Qwen2Config

from megatron_stare.data.packing import MicroBatches, SampleCost, plan_micro_batches
from megatron_stare.policy.flops import sample_cost
from megatron_stare.weights.hf_config import read_hf_config

RECORDED = Path(__file__).parents[2] / "shared" / "data" / "math_recorded_rollouts.jsonl"
PROMPTS, SAMPLES_PER_PROMPT = 64, 8
QWEN_7B = Qwen2Config(
    architectures=["Qwen2ForCausalLM"],
    hidden_size=3584,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    intermediate_size=18944,
    vocab_size=152064,
    max_position_embeddings=32768,
)

Lengths = list[tuple[int, int]]
"""Tokens, and those of the response, of each sample of a step."""

Draw = Callable[[random.Random], Lengths]


def long_reasoning(rng: random.Random) -> Lengths:
    """Responses log-normal around a median of 8192 tokens, sigma 0.8, cut at 32768 with prompt."""
    step = []
    for _ in range(PROMPTS):
        prompt = rng.randint(64, 512)
        for _ in range(SAMPLES_PER_PROMPT):
            response = round(8192 * math.exp(rng.gauss(0, 0.8)))
            response = min(response, 32768 - prompt)
            step.append((prompt + response, response))
    return step


def recorded_math(path: Path) -> Draw:
    """Recorded groups, drawn with replacement."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def draw(rng: random.Random) -> Lengths:
        step = []
        for row in rng.choices(rows, k=PROMPTS):
            prompt = count_tokens(row["problem"])
            for response in map(count_tokens, row["responses"][:SAMPLES_PER_PROMPT]):
                step.append((prompt + response, response))
        return step

    return draw


def count_tokens(text: str) -> int:
    """About what a tokenizer makes of it: words, single digits, single signs."""
    return len(re.findall(r"[^\W\d_]+|\d|[^\w\s]|_", text))


def fill(num_tokens: int, num_micro_batches: int, dp_size: int, budget: int) -> float:
    return num_tokens / (budget * num_micro_batches * dp_size)


def imbalance(loads: Sequence[float]) -> float:
    return max(loads) / mean(loads) - 1


def loads_of(ranks: Sequence[MicroBatches], costs: Sequence[float]) -> list[float]:
    return [sum(costs[s] for micro_batch in rank for s in micro_batch) for rank in ranks]


def padded(
    step: Lengths, cost: SampleCost, dp_size: int, budget: int, longest: int
) -> tuple[int, list[float]]:
    """Micro-batches of a rank, and the cost of each rank with its padding."""
    batches = itertools.batched(step, budget // longest)
    slots = [(len(batch), max(n for n, _ in batch), max(r for _, r in batch)) for batch in batches]
    loads = [sum(count * cost(n, r) for count, n, r in slots[i::dp_size]) for i in range(dp_size)]
    return math.ceil(len(slots) / dp_size), loads


def measure(
    steps: Sequence[Lengths], cost: SampleCost, dp_size: int, budget: int
) -> list[tuple[float, ...]]:
    """The numbers of each step, in the order of the table."""
    longest = max(n for step in steps for n, _ in step)
    measured = []
    for step in steps:
        lengths, costs = [n for n, _ in step], [cost(*pair) for pair in step]
        ids, num_tokens = range(len(step)), sum(lengths)
        start = time.perf_counter()
        ranks = plan_micro_batches(ids, lengths, costs, dp_size=dp_size, max_tokens=budget)
        plan_ms = 1e3 * (time.perf_counter() - start)
        by_tokens = plan_micro_batches(ids, lengths, lengths, dp_size=dp_size, max_tokens=budget)
        num_padded, padded_loads = padded(step, cost, dp_size, budget, longest)
        measured.append(
            (
                len(ranks[0]),
                fill(num_tokens, len(ranks[0]), dp_size, budget),
                fill(num_tokens, math.ceil(num_tokens / dp_size / budget), dp_size, budget),
                imbalance(loads_of(ranks, costs)),
                imbalance(loads_of(by_tokens, costs)),
                num_padded,
                fill(num_tokens, num_padded, dp_size, budget),
                imbalance(padded_loads),
                sum(padded_loads) / sum(costs) - 1,
                plan_ms,
            )
        )
    return measured


def row(measured: list[tuple[float, ...]]) -> str:
    ours, full, bound, uneven, by_tokens, theirs, their_full, their_uneven, wasted, plan_ms = zip(
        *measured, strict=True
    )
    return (
        f"{mean(ours):.1f} | {mean(full):.1%} | {mean(bound):.1%} | {max(uneven):.2%} | "
        f"{max(by_tokens):.2%} | {mean(theirs):.1f} | {mean(their_full):.1%} | "
        f"{max(their_uneven):.1%} | {mean(wasted):+.0%} | {median(plan_ms):.0f} ms"
    )


def qwen_cost() -> SampleCost:
    with tempfile.TemporaryDirectory() as folder:
        QWEN_7B.save_pretrained(folder)
        return sample_cost(read_hf_config(Path(folder)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recorded", type=Path, default=RECORDED)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    cases: list[tuple[str, Draw, tuple[int, int]]]
    cases = [("long reasoning", long_reasoning, (32768, 65536))]
    if args.recorded.exists():
        cases.append(("recorded math", recorded_math(args.recorded), (4096, 8192)))
    else:
        print(f"{args.recorded}: not there, recorded math is left out\n")
    cost = qwen_cost()
    print(
        "| samples | budget | ranks | micro-batches | fill | bound | imbalance | by tokens | "
        "padded: micro-batches | fill | imbalance | FLOPs | plan |"
    )
    print("|---|" + "--:|" * 12)
    for name, draw, budgets in cases:
        steps = [draw(random.Random(seed)) for seed in range(args.steps)]
        for budget, dp_size in itertools.product(budgets, (1, 2, 4, 8, 16)):
            columns = row(measure(steps, cost, dp_size, budget))
            print(f"| {name} | {budget} | {dp_size} | {columns} |", flush=True)


if __name__ == "__main__":
    main()
