"""Make everything the laptop demo starts from: a model shape, a tokenizer, and sets of sums.

    python examples/tiny_addition/make_data.py [FOLDER] [--seed N]

writes into FOLDER (default `out/` beside this file), the same bytes for the same seed:

    model/            Hugging Face folder without weights: a Qwen3 of 0.6 M parameters, a tokenizer
    sft.jsonl         {"prompt", "response"}: worked sums, some of them with a slip
    train.jsonl       {"prompt", "answer"}: problems to practise on
    heldout.jsonl     {"prompt", "answer"}: problems that only the final table sees
    validation.jsonl  {"prompt", "answer"}: problems to tune settings on

No problem is in two files. A worked sum:

    3471+5898=
    from the right: 1 plus 8 is 9; 7+9 makes 16, 4 and 8 and 1=13 then 3+5+1=9 so \\boxed{9369}

There are three ways through every sum and many wordings of every step, all of them right, so a
policy that learned from them has a free choice at every third token: the entropy the demo is about.
A slip carries on into the answer, so that policy is also wrong half of the time.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config

NUM_WORKED = 16_000
NUM_PROBLEMS = {"train": 8_000, "heldout": 256, "validation": 256}
NUM_DIGITS = 4
SLIP_RATE = 0.06

PLUS = ("+", " plus ", " and ")
EQUALS = ("=", " is ", " makes ", " gives ")
LINKS = (", ", "; ", " then ", " next ")
CLOSINGS = (" so ", " thus ", " answer ", " total ")
PIECE = r"\\boxed\{| ?[a-z]+:? ?|[,;] ?|."
"""A token: the box, a word with its spaces, a mark, a digit."""

PAD, EOS = "<pad>", "<eos>"  # tokens 0 and 1
MODEL_SHAPE: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 384,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "initializer_range": 0.05,
    "dtype": "float32",
    "pad_token_id": 0,
    "eos_token_id": 1,
}

Step = tuple[list[int], int]  # the terms of one small sum, and what they were said to make
Slip = Callable[[int], int]  # the result of one small sum, or now and then a wrong one


def from_the_right(a: int, b: int, slip: Slip) -> tuple[list[Step], int]:
    """Column by column with carries: 347+589 is 7+9=16, 4+8+1=13, 3+5+1=9, so 936."""
    steps: list[Step] = []
    answer, carry, place = 0, 0, 1
    while a or b:
        terms = [a % 10, b % 10, *([carry] if carry else [])]
        total = slip(sum(terms))
        steps.append((terms, total))
        answer += (total % 10) * place
        a, b, carry, place = a // 10, b // 10, total // 10, place * 10
    return steps, answer + carry * place


def from_the_left(a: int, b: int, slip: Slip) -> tuple[list[Step], int]:
    """Column sums first, carries in the head: 347+589 is 3+5=8, 4+8=12, 7+9=16, so 936."""
    steps: list[Step] = []
    total, width = 0, max(len(str(a)), len(str(b)))
    for x, y in zip(str(a).zfill(width), str(b).zfill(width), strict=True):
        column = slip(int(x) + int(y))
        steps.append(([int(x), int(y)], column))
        total = total * 10 + column
    return steps, total


def in_parts(a: int, b: int, slip: Slip) -> tuple[list[Step], int]:
    """The second number split by place value: 347+589 is 347+500=847, 847+80=927, 927+9=936."""
    steps: list[Step] = []
    total = a
    for place in range(len(str(b)) - 1, -1, -1):
        part = b // 10**place % 10 * 10**place
        if part:
            terms = [total, part]
            total = slip(sum(terms))
            steps.append((terms, total))
    return steps, total


WAYS = {
    from_the_right: ("from the right: ", "ones first: ", "by column: "),
    from_the_left: ("from the left: ", "big end first: ", "running: "),
    in_parts: ("in parts: ", "split: ", "bit by bit: "),
}


def slip_sometimes(rng: Random, rate: float, result: int) -> int:
    """`result`, or with probability `rate` a near miss of it: off by one or two, or by ten."""
    if rng.random() >= rate:
        return result
    return max(0, result + rng.choice((-10, -2, -1, 1, 2, 10)))


def worked_sum(a: int, b: int, rng: Random, slip_rate: float = SLIP_RATE) -> str:
    """One response to `a+b=`: a random way, every step in random words, the answer in a box."""
    way = rng.choice(list(WAYS))
    steps, answer = way(a, b, partial(slip_sometimes, rng, slip_rate))
    text = rng.choice(WAYS[way])
    for index, (terms, total) in enumerate(steps):
        text += rng.choice(LINKS) if index else ""
        text += str(terms[0]) + "".join(rng.choice(PLUS) + str(term) for term in terms[1:])
        text += rng.choice(EQUALS) + str(total)
    return text + rng.choice(CLOSINGS) + f"\\boxed{{{answer}}}"


def distinct_problems(rng: Random) -> Iterator[tuple[int, int]]:
    """An endless row of pairs of numbers of `NUM_DIGITS` digits, none of them twice."""
    seen: set[tuple[int, int]] = set()
    while True:
        a, b = (rng.randrange(10 ** (NUM_DIGITS - 1), 10**NUM_DIGITS) for _ in range(2))
        if (a, b) not in seen:
            seen.add((a, b))
            yield a, b


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Digits and signs one by one, words whole with their spaces: text comes back as it went in."""
    wordings = (*PLUS, *EQUALS, *LINKS, *CLOSINGS, *(text for way in WAYS.values() for text in way))
    pieces = {piece for text in wordings for piece in re.findall(PIECE, text)}
    names = [PAD, EOS, *"0123456789", "\\boxed{", "}", *sorted(pieces)]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, padding_side="left"
    )


def write_model_folder(folder: Path) -> None:
    """config.json and the tokenizer of a policy that is not trained yet."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    Qwen3Config(**MODEL_SHAPE, vocab_size=len(tokenizer)).save_pretrained(folder)


def write_rows(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_data(folder: Path, seed: int) -> None:
    """Write everything into `folder`; the same bytes for the same seed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model_folder(folder / "model")
    rng = Random(seed)
    problems = distinct_problems(rng)
    worked = list(islice(problems, NUM_WORKED))
    write_rows(
        folder / "sft.jsonl",
        ({"prompt": f"{a}+{b}=", "response": worked_sum(a, b, rng)} for a, b in worked),
    )
    for name, count in NUM_PROBLEMS.items():
        rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a, b in islice(problems, count)]
        write_rows(folder / f"{name}.jsonl", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the data of the laptop demo.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent / "out")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    make_data(arguments.folder, arguments.seed)


if __name__ == "__main__":
    main()
