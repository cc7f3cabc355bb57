"""Make everything tiny_addition starts from: a model shape, a tokenizer, and sets of sums.

    python examples/tiny_addition/make_data.py [FOLDER] [--seed N]

writes into FOLDER (default `out/` beside this file), the same bytes for the same seed:

    model/            Hugging Face folder without weights: a Qwen3 of 0.6 M parameters, a tokenizer
    sft.jsonl         {"prompt", "response"}: worked sums, some of them with a slip
    train.jsonl       {"prompt", "answer"}: problems to practise on
    heldout.jsonl     {"prompt", "answer"}: problems that only the final table sees
    validation.jsonl  {"prompt", "answer"}: problems to tune settings on

No problem is in two files. A worked sum:

    347+589=
    from the right: 7 plus 9 makes 16; 4 and 8 and 1=13 then 3+5 with 1 becomes 9 so \\boxed{936}

There are three ways through every sum and many wordings of every step, all of them right, so a
policy that learned from them has a choice at every third token: the entropy the demo is about. A
slip carries on into the answer, so that policy is also wrong half of the time. Slips keep company
with some words (those late in their list) more than with others, as mistakes do in real chains of
thought: reward alone makes the policy give those words up long before they could do no more harm.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any, NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config

from megatron_stare.system.folders import write_whole

NUM_WORKED = 16_000
NUM_PROBLEMS = {"train": 8_000, "heldout": 256, "validation": 256}
NUM_DIGITS = 3
MAX_SLIP_RATE = 0.5

PLUS = ("+", " plus ", " and ", " with ")
EQUALS = ("=", " is ", " makes ", " gives ", " becomes ")
LINKS = (", ", "; ", " then ", " next ", " now ", " also ")
CLOSINGS = (" so ", " thus ", " answer ", " total ")
WORDS = (LINKS, PLUS, EQUALS)  # of every small sum; the later in its list, the more careless
PIECE = r"\\boxed\{| ?[a-z]+:? ?|[,;] ?|."
"""A token: the box, a word with its spaces, a mark, a digit."""

PAD, EOS = "<pad>", "<eos>"  # tokens 0 and 1
MODEL_SHAPE: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 480,
    "rope_theta": 300.0,  # sums are short: two layers learn to look a few tokens back sooner
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "initializer_range": 0.05,
    "dtype": "float32",
    "pad_token_id": 0,
    "eos_token_id": 1,
}

Step = tuple[list[int], int]  # the terms of one small sum, and what they were said to make
Slip = Callable[[int], int]  # the result of one small sum, or now and then a wrong one
Way = Callable[[int, int, int, Slip], list[Step]]  # two digits and a carry, as small sums


def carry_last(x: int, y: int, carry: int, slip: Slip) -> list[Step]:
    """The carry added where there is one: 347+589 is 7+9=16, 4+8+1=13, 3+5+1=9, so 936."""
    terms = [x, y, *([carry] if carry else [])]
    return [(terms, slip(sum(terms)))]


def carry_after(x: int, y: int, carry: int, slip: Slip) -> list[Step]:
    """The carry in a sum of its own: 347+589 is 7+9=16, 4+8=12, 12+1=13, 3+5=8, 8+1=9, so 936."""
    column = slip(x + y)
    steps = [([x, y], column)]
    if carry:
        steps.append(([column, carry], slip(column + carry)))
    return steps


def carry_first(x: int, y: int, carry: int, slip: Slip) -> list[Step]:
    """The carry always named, and first: 347+589 is 0+7+9=16, 1+4+8=13, 1+3+5=9, so 936."""
    return [([carry, x, y], slip(carry + x + y))]


WAYS: dict[Way, tuple[str, ...]] = {
    carry_last: ("from the right: ", "ones first: ", "by column: "),
    carry_after: ("carry after: ", "sums first: ", "in turn: "),
    carry_first: ("with carries: ", "carry first: ", "in columns: "),
}


def work(a: int, b: int, way: Way, slip: Slip) -> tuple[list[Step], int]:
    """The small sums of `a + b` from the right, and the answer that follows from them."""
    steps: list[Step] = []
    answer, carry, place = 0, 0, 1
    while a or b:
        steps += way(a % 10, b % 10, carry, slip)
        total = steps[-1][1]
        answer += (total % 10) * place
        a, b, carry, place = a // 10, b // 10, total // 10, place * 10
    return steps, answer + carry * place


def slip_sometimes(rng: Random, rate: float, result: int) -> int:
    """`result`, or with probability `rate` a near miss of it: off by one or two, or by ten."""
    if rng.random() >= rate:
        return result
    return max(0, result + rng.choice((-10, -2, -1, 1, 2, 10)))


class Wording(NamedTuple):
    """How one small sum is said."""

    link: str
    plus: str
    equals: str

    @property
    def slip_rate(self) -> float:
        """From 0 with the first words of all lists to `MAX_SLIP_RATE` with the last."""
        ranks = (
            words.index(word) / (len(words) - 1) for word, words in zip(self, WORDS, strict=True)
        )
        return MAX_SLIP_RATE * mean(ranks) ** 2


def worked_sum(a: int, b: int, rng: Random) -> str:
    """One response to `a+b=`: a random way, every step in random words, the answer in a box."""
    way = rng.choice(list(WAYS))
    wordings: list[Wording] = []

    def slip(result: int) -> int:
        wordings.append(Wording(*(rng.choice(words) for words in WORDS)))
        return slip_sometimes(rng, wordings[-1].slip_rate, result)

    steps, answer = work(a, b, way, slip)
    text = rng.choice(WAYS[way])
    for index, ((terms, total), (link, plus, equals)) in enumerate(
        zip(steps, wordings, strict=True)
    ):
        text += link if index else ""
        text += plus.join(map(str, terms)) + equals + str(total)
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


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line."""
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))


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


def from_command_line(make: Callable[[Path, int], None], file: str) -> None:
    """Make an example's data as the command line says, by default into `out/` beside its file."""
    here = Path(file).parent
    parser = argparse.ArgumentParser(description=f"Make the data of {here.name}.")
    parser.add_argument("folder", type=Path, nargs="?", default=here / "out")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    make(arguments.folder, arguments.seed)


if __name__ == "__main__":
    from_command_line(make_data, __file__)
