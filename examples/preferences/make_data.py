"""Make the pairs of preferences: the same sum worked twice, right and with a slip.

    python -m examples.preferences.make_data [FOLDER] [--seed N]

writes into FOLDER (default `out/` beside this file), the same bytes for the same seed:

    model/         tiny_addition's network without weights, and its tokenizer
    sft.jsonl      {"prompt", "response"}: its worked sums, slips included, for the warm-up
    pairs.jsonl    {"prompt", "chosen", "rejected"}: other sums, worked right and wrong
    heldout.jsonl  the same of sums that are in no other file

Both responses of a pair are of the same kind, many words long, and differ in wording, too: what
makes one the better is a digit somewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

from examples.tiny_addition import make_data as sums

NUM_WORKED = 16_000
NUM_PAIRS = {"pairs": 4_000, "heldout": 256}


def pair_of(a: int, b: int, rng: Random) -> dict[str, str]:
    """A sum worked until it has been right once, and wrong once."""
    found: dict[bool, str] = {}
    while len(found) < 2:
        response = sums.worked_sum(a, b, rng)
        found.setdefault(response.endswith(f"\\boxed{{{a + b}}}"), response)
    return {"prompt": f"{a}+{b}=", "chosen": found[True], "rejected": found[False]}


def make_data(folder: Path, seed: int) -> None:
    """Write everything into `folder`; the same bytes for the same seed."""
    folder.mkdir(parents=True, exist_ok=True)
    sums.write_model_folder(folder / "model")
    rng = Random(seed)
    problems: Iterator[tuple[int, int]] = sums.distinct_problems(rng)
    sums.write_rows(
        folder / "sft.jsonl",
        (
            {"prompt": f"{a}+{b}=", "response": sums.worked_sum(a, b, rng)}
            for a, b in islice(problems, NUM_WORKED)
        ),
    )
    for name, count in NUM_PAIRS.items():
        rows = [pair_of(a, b, rng) for a, b in islice(problems, count)]
        sums.write_rows(folder / f"{name}.jsonl", rows)


if __name__ == "__main__":
    sums.from_command_line(make_data, __file__)
