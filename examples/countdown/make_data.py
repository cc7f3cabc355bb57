"""Make everything countdown starts from: a model shape, a tokenizer, demonstrations and problems.

    python examples/countdown/make_data.py [FOLDER] [--seed N]

writes into FOLDER (default `out/` beside this file), the same bytes for the same seed:

    model/       Hugging Face folder without weights: a Qwen3 of 0.41 M parameters, a tokenizer
    sft.jsonl    {"prompt", "response"}: demonstrations for the warm-up
    train.jsonl  {"prompt", "answer"}: problems to practise on
    dev.jsonl    {"prompt", "answer"}: problems to choose settings on
    test.jsonl   {"prompt", "answer"}: problems for the final numbers

A problem is three different numbers of 1 to 16 and a target of 0 to 99 that they can make; each of
the 4,503 is as likely as any other, and in one of train, dev and test. The seed draws the split.

A demonstration has the numbers in random order and signs by habit: mostly sums, some differences,
few products. One in five hits the target, the others make whatever they make. So a policy that
learned from them knows the format, has a habit, a weak idea of arithmetic, and much spread: as a
base model has on hard problems. Which of the nine pairs of signs a problem needs is learned
slowly; that the habit pays on many of them is learned at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import combinations, permutations, product
from math import prod
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config

from examples.countdown.verifier import SIGNS, Expression
from examples.tiny_addition.make_data import from_command_line, write_rows

LARGEST_NUMBER = 16
TARGETS = range(100)
NUM_TEST, NUM_DEV = 640, 384
NUM_DEMONSTRATIONS = 24_000
NUM_PRACTICE = 30_000
HABIT = {"+": 0.5, "-": 0.3, "*": 0.2}
"""How likely a demonstration takes each sign."""
SHARE_SOLVED = 0.2
"""Of the demonstrations, those that are drawn among the solutions."""

PAD, EOS = "<pad>", "<eos>"  # tokens 0 and 1
MODEL_SHAPE: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 384,
    "rope_theta": 300.0,  # texts are of 14 tokens: two layers learn to look a few back sooner
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "initializer_range": 0.05,
    "dtype": "float32",
    "pad_token_id": 0,
    "eos_token_id": 1,
}

Problem = tuple[tuple[int, ...], int]  # three numbers, ascending, and the target
Solutions = Mapping[Problem, list[Expression]]


@cache
def expressions(numbers: tuple[int, ...]) -> list[Expression]:
    """All 54 that write these three numbers once each."""
    return [
        Expression(order, "".join(signs))
        for order in permutations(numbers, 3)
        for signs in product(SIGNS, repeat=2)
    ]


def solve_all() -> Solutions:
    """Every problem that has a solution, with its solutions; ascending."""
    found: dict[Problem, list[Expression]] = {}
    for numbers in combinations(range(1, LARGEST_NUMBER + 1), 3):
        for expression in expressions(numbers):
            if expression.value in TARGETS:
                found.setdefault((numbers, expression.value), []).append(expression)
    return dict(sorted(found.items()))


def write_problem(problem: Problem, rng: Random) -> str:
    """`03,07,05>26`, the numbers in a random order."""
    numbers, target = problem
    return ",".join(f"{n:02}" for n in rng.sample(numbers, 3)) + f">{target:02}"


def demonstrate(problem: Problem, solutions: Solutions, rng: Random) -> Expression:
    """By habit, with a value that is a target; now and then one that hits this problem's."""
    if rng.random() < SHARE_SOLVED:
        among = solutions[problem]
        return rng.choices(among, [likelihood(expression) for expression in among])[0]
    return rng.choices(*habitual(problem[0]))[0]


@cache
def habitual(numbers: tuple[int, ...]) -> tuple[list[Expression], list[float]]:
    """Expressions whose value is a target, and how likely the habit writes each."""
    found = [expression for expression in expressions(numbers) if expression.value in TARGETS]
    return found, [likelihood(expression) for expression in found]


def likelihood(expression: Expression) -> float:
    """Of its signs, by habit."""
    return prod(HABIT[sign] for sign in expression.signs)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A token a number, a token a sign: text comes back as it went in."""
    names = [PAD, EOS, *(f"{n:02}" for n in range(100)), *SIGNS, ",", ">", ":"]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[0-9]{2}|."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, padding_side="left"
    )


def write_model_folder(folder: Path) -> None:
    """config.json and the tokenizer of a policy that is not trained yet."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    Qwen3Config(**MODEL_SHAPE, vocab_size=len(tokenizer)).save_pretrained(folder)


def make_data(folder: Path, seed: int) -> None:
    """Write everything into `folder`; the same bytes for the same seed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model_folder(folder / "model")
    rng = Random(seed)
    solutions = solve_all()
    problems = list(solutions)
    rng.shuffle(problems)
    held_out = NUM_TEST + NUM_DEV
    train = problems[held_out:]
    parts = {
        "test": problems[:NUM_TEST],
        "dev": problems[NUM_TEST:held_out],
        "train": rng.choices(train, k=NUM_PRACTICE),
    }
    for name, part in parts.items():
        texts = [write_problem(problem, rng) for problem in part]
        rows = ({"prompt": f"{text}:", "answer": text} for text in texts)
        write_rows(folder / f"{name}.jsonl", rows)
    demonstrations = [
        {
            "prompt": write_problem(problem, rng) + ":",
            "response": str(demonstrate(problem, solutions, rng)),
        }
        for problem in rng.choices(train, k=NUM_DEMONSTRATIONS)
    ]
    write_rows(folder / "sft.jsonl", demonstrations)


if __name__ == "__main__":
    from_command_line(make_data, __file__)
