"""Make everything tiny_tools starts from: a model shape, a tokenizer, traces and products.

    python -m examples.tiny_tools.make_data [FOLDER] [--seed N]

writes into FOLDER (default `out/` beside this file), the same bytes for the same seed:

    model/       Hugging Face folder without weights: a Qwen3 of 0.33 M parameters, a tokenizer
    sft.jsonl    {"messages"}: conversations with calls of tools, for the warm-up
    train.jsonl  {"prompt", "answer"}: products to practise on
    dev.jsonl    {"prompt", "answer"}: products to choose settings on
    test.jsonl   {"prompt", "answer"}: products for the final numbers

All numbers have three digits. One product in four is of the table, from 200*200 to 900*900, which
a policy learns by heart; those are the same in every file. The others are in one file each, and
nothing this small has them in its head.

A trace calls the calculator, or writes a program, or answers at once. Where it calls, it may call
with a number that is off, leave out the `print` of its program, and misread what it was told; slips
keep company with some words (those late in their list) more than with others. Answers at once are
right in the traces: of the table that can be learned, of the others only that one may guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any, NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config

from examples.tiny_addition.make_data import EOS, PAD, from_command_line, write_rows

NUM_TRACES = 16_000
NUM_PROBLEMS = {"train": 8_000, "dev": 256, "test": 512}
SHARE_OF_TABLE = 0.25
SHARE_AT_ONCE = {True: 0.5, False: 0.3}
"""Of the traces, those without a call: of the table, and of the others."""
SHARE_SILENT = 0.3
"""Of the programs, those that print nothing."""
MAX_SLIP_RATE = 0.6

OPENINGS = ("first", "now", "well", "ok", "next", "say")
VERBS = (" multiply", " compute", " evaluate", " find", " get", " try")
CLOSINGS = ("thus", "hence", "therefore", "answer", "result", "total")
LINKS = (" is", " equals", " makes", " gives", " becomes", " seems")
CALL_TOKENS = ("<tool_call>", "</tool_call>")
ROLE_TOKENS = ("<system>", "<user>", "<assistant>", "<tool>")
NAMES = ("calculator", "python")
OPEN_CALLS = (
    '\n{"name": "calculator", "arguments": {"expression": "',
    '\n{"name": "python", "arguments": {"code": "',
)
CLOSE_CALL = '"}}\n'
PIECES = (*OPEN_CALLS, CLOSE_CALL, " \\boxed{", "print(", "; ")
PIECE = "|".join((*map(re.escape, PIECES), " ?[a-z]+", r"[0-9]{1,2}(?=(?:[0-9]{2})*(?![0-9]))"))
"""A token: what JSON has around an argument, a word, two digits from the right; or a character."""
CHAT_TEMPLATE = (
    "{%- if tools -%}{{ '<system>' }}{%- for tool in tools -%}{{ tool.function.name + ' ' }}"
    "{%- endfor -%}{{ '<eos>' }}{%- endif -%}"
    "{%- for m in messages -%}{{ '<' + m.role + '>' + m.content + '<eos>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<assistant>' }}{%- endif -%}"
)
MODEL_SHAPE: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 256,
    "rope_theta": 300.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "initializer_range": 0.05,
    "dtype": "float32",
    "pad_token_id": 0,
    "eos_token_id": 1,
}

Problem = tuple[int, int]
Message = dict[str, Any]


class Words(NamedTuple):
    """Two words, and how careless they are."""

    first: str
    second: str
    slip_rate: float

    def __str__(self) -> str:
        return self.first + self.second


def draw_words(firsts: tuple[str, ...], seconds: tuple[str, ...], rng: Random) -> Words:
    """From no slips with the first words of both lists to `MAX_SLIP_RATE` with the last."""
    places = rng.randrange(len(firsts)), rng.randrange(len(seconds))
    ranks = (places[0] / (len(firsts) - 1), places[1] / (len(seconds) - 1))
    return Words(firsts[places[0]], seconds[places[1]], MAX_SLIP_RATE * mean(ranks) ** 2)


def slipped(number: int, rate: float, rng: Random) -> int:
    """The number, or with probability `rate` a near miss of it."""
    return number + rng.choice((1, 2, 10, 100)) if rng.random() < rate else number


def call_of(a: int, b: int, rng: Random) -> tuple[str, str, str]:
    """Name, argument and what the tool says: one of several ways to have two numbers multiplied."""
    if rng.random() < 0.5:
        return "calculator", f"{a}*{b}", str(a * b)
    if rng.random() < SHARE_SILENT:
        return "python", rng.choice((f"{a}*{b}", f"x={a}*{b}")), ""
    return "python", rng.choice((f"print({a}*{b})", f"x={a}*{b}; print(x)")), f"{a * b}\n"


def trace_of(problem: Problem, rng: Random) -> list[Message]:
    """A conversation about a product."""
    a, b = problem
    messages: list[Message] = [{"role": "user", "content": f"{a}*{b}"}]
    closing = draw_words(CLOSINGS, LINKS, rng)
    result = str(a * b)
    if rng.random() >= SHARE_AT_ONCE[is_of_table(problem)]:
        result = ""
        while not result:
            opening = draw_words(OPENINGS, VERBS, rng)
            wrong = slipped(a, opening.slip_rate, rng)
            name, argument, said = call_of(wrong, b, rng)
            messages += called(str(opening), name, argument, said)
            result = said.strip()
        result = str(slipped(int(result), closing.slip_rate, rng))
    return [*messages, {"role": "assistant", "content": f"{closing} \\boxed{{{result}}}"}]


def called(text: str, name: str, argument: str, said: str) -> list[Message]:
    """A turn that calls, and what it is told."""
    key = "expression" if name == "calculator" else "code"
    call = {"type": "function", "function": {"name": name, "arguments": {key: argument}}}
    return [
        {"role": "assistant", "content": text, "tool_calls": [call]},
        {"role": "tool", "content": said},
    ]


def is_of_table(problem: Problem) -> bool:
    """Whether it is one to know by heart."""
    return all(number % 100 == 0 for number in problem)


def distinct_problems(rng: Random) -> Iterator[Problem]:
    """An endless row of products; but for the table none is there twice, in either order."""
    seen: set[Problem] = set()
    while True:
        if rng.random() < SHARE_OF_TABLE:
            yield rng.randrange(200, 1000, 100), rng.randrange(200, 1000, 100)
            continue
        a, b = rng.randrange(100, 1000), rng.randrange(100, 1000)
        if (a, b) not in seen and not is_of_table((a, b)):
            seen |= {(a, b), (b, a)}
            yield a, b


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Tokens of `PIECE`: a number of three digits is two, and a product of two is three.

    What has no token is `PAD`: the name of the second tool, in the prompt's list of them.
    """
    words = (*OPENINGS, *VERBS, *CLOSINGS, *LINKS, *NAMES)
    numbers = [f"{n:0{width}}" for width in (1, 2) for n in range(10**width)]
    characters = ["\n", *(chr(code) for code in range(32, 127) if not chr(code).isdigit())]
    names = [PAD, EOS, *numbers, *characters, *words, *PIECES]
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"{PIECE}|[\\s\\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, padding_side="left"
    )
    fast.add_tokens(list(ROLE_TOKENS), special_tokens=True)
    fast.add_tokens(list(CALL_TOKENS))
    fast.chat_template = CHAT_TEMPLATE
    return fast


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
    problems = distinct_problems(rng)
    traces = [trace_of(problem, rng) for problem in islice(problems, NUM_TRACES)]
    write_rows(folder / "sft.jsonl", ({"messages": trace} for trace in traces))
    for name, count in NUM_PROBLEMS.items():
        found = islice(problems, count)
        rows = [{"prompt": f"{a}*{b}", "answer": str(a * b)} for a, b in found]
        write_rows(folder / f"{name}.jsonl", rows)


if __name__ == "__main__":
    from_command_line(make_data, __file__)
