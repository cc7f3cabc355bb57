"""Choose problems from a pool: operators, one after another, as AutoSelection composes them.

    python tools/curate_prompts.py pool.jsonl chosen.jsonl \
        --length 10 2000 --dedup 5 0.8 --pass-rate 0.1 0.9

reads rows of {"prompt", ...}, and writes those that every operator has kept, as they were and in
their order. Operators are applied in the order in which they stand on the command line, and may
stand there several times:

    --length MIN MAX          characters of the prompt, from MIN to MAX
    --pass-rate LOW HIGH      `pass_rate` of the row, from LOW to HIGH: what `megatron-stare pivots`
                              writes, or a pass rate of your own (--pass-rate-field)
    --dedup N SIMILARITY      left out is what shares this part of its sequences of N words with an
                              earlier one that is kept: the size of their intersection over that
                              of their union; case and commas do not count, signs do
    --top-entropy N SHARE     the share of the rows whose sequences of N words vary most, by the
                              entropy of their frequencies
    --top FIELD SHARE         the share of the rows with the largest number in a field: a score that
                              a model gave them elsewhere, such as IFD or varentropy

After each it prints how many rows are left and what they are like: the share of the pool and of its
characters, mean length, mean and spread of the pass rates. Similar problems are found by MinHash
(128 permutations in 32 bands, each of which remembers a few of the problems that fell into it) and
then compared exactly: time and memory grow with the number of rows, and nothing is random.

Operators are those of AutoSelection (arXiv 2605.12944) that a pool of prompts can have without a
model. Its cut of long texts would cut problems in two: --length leaves such rows out. Its mixtures
and unions are `data.sources` with weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

import numpy as np

from megatron_stare.errors import UserError
from megatron_stare.system.folders import replacing_file

_PERMUTATIONS, _BANDS = 128, 32
_REMEMBERED = 8
"""Problems that a band compares with, of those with the same part of their signature."""
_WORD = re.compile(r"\w+|[^\w\s.,;:?'\"]")
"""Signs of arithmetic are words: 2+3 is another problem than 2-3."""


class Problem(NamedTuple):
    """A row of the pool: where it stands, its text as it was read, and what of it is looked at."""

    place: str
    line: str
    prompt: str
    fields: dict[str, Any]


Operator = Callable[[Sequence[Problem]], list[Problem]]


def read_pool(path: Path, prompt_field: str) -> list[Problem]:
    """The rows of a JSONL file.

    Raises:
        UserError: there are none, or one of them has no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}), expected JSONL of problems") from None
    places = ((f"{path}:{n}", line) for n, line in enumerate(lines, start=1) if line.strip())
    pool = [_problem(place, line, prompt_field) for place, line in places]
    if not pool:
        raise UserError(f"{path}: is empty, expected a problem a line")
    return pool


def _problem(place: str, line: str, prompt_field: str) -> Problem:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: no JSON ({error})") from None
    prompt = row.get(prompt_field) if isinstance(row, dict) else None
    if isinstance(prompt, list):  # Of chat messages.
        texts = [m.get("content") for m in prompt if isinstance(m, dict)]
        is_chat = len(texts) == len(prompt) and all(isinstance(text, str) for text in texts)
        prompt = "\n".join(map(str, texts)) if is_chat else None
    if not isinstance(prompt, str):
        raise UserError(f"{place}: no text in field {prompt_field!r}, expected a problem")
    return Problem(place, line, prompt, row)


def by_length(least: float, most: float) -> Operator:
    """Those with a prompt of so many characters."""
    return lambda pool: [problem for problem in pool if least <= len(problem.prompt) <= most]


def by_pass_rate(low: float, high: float, field: str) -> Operator:
    """Those that were solved so often; UserError where a row does not say."""

    def kept(pool: Sequence[Problem]) -> list[Problem]:
        return [problem for problem in pool if low <= pass_rate_of(problem, field) <= high]

    return kept


def top_field(field: str, share: float) -> Operator:
    """The share of the pool with the largest number there; UserError where a row has none."""
    return lambda pool: _top([_number_of(problem, field) for problem in pool], share, pool)


def _number_of(problem: Problem, field: str) -> float:
    found = problem.fields.get(field)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise UserError(f"{problem.place}: {field}={found!r}, expected a number")
    return found


def _top(values: Sequence[float], share: float, pool: Sequence[Problem]) -> list[Problem]:
    """The share of the pool, rounded up, with the largest values; of equals the earlier ones."""
    order = sorted(range(len(pool)), key=lambda i: -values[i])
    return [pool[i] for i in sorted(order[: math.ceil(round(share * len(pool), 9))])]


def pass_rate_of(problem: Problem, field: str) -> float:
    """What a row says of how often it was solved."""
    rate = problem.fields.get(field)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise UserError(f"{problem.place}: {field}={rate!r}, expected a number from 0 to 1")
    return rate


def top_entropy(n: int, share: float) -> Operator:
    """The share of the pool with the most entropy of n-grams."""

    def entropy_of(problem: Problem) -> float:
        return _entropy(Counter(_grams(problem.prompt, n)))

    return lambda pool: _top([entropy_of(problem) for problem in pool], share, pool)


def _entropy(counts: Counter[str]) -> float:
    total = counts.total()
    return -sum(count / total * math.log(count / total) for count in counts.values())


def without_repeats(n: int, similarity: float) -> Operator:
    """Those without an earlier one that is kept and shares so much of its n-grams."""

    def kept(pool: Sequence[Problem]) -> list[Problem]:
        left: list[Problem] = []
        signatures = _Signatures()
        known: list[frozenset[int]] = []
        bands: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        for problem in pool:
            grams = frozenset(map(_hash, _grams(problem.prompt, n)))
            keys = [*enumerate(signatures.bands_of(grams))]
            near = {place for key in keys for place in bands.get(key, ())}
            if any(_jaccard(grams, known[place]) >= similarity for place in near):
                continue
            for key in keys:
                if len(bands[key]) < _REMEMBERED:
                    bands[key].append(len(left))
            known.append(grams)
            left.append(problem)
        return left

    return kept


class _Signatures:
    """MinHash: under a random order of all n-grams, two sets begin alike as often as they overlap.

    Orders are those of a * hash + b modulo 2^64, the upper half of it.
    """

    def __init__(self) -> None:
        random = np.random.Generator(np.random.Philox(key=1))
        self._a = random.integers(2**64, size=(_PERMUTATIONS, 1), dtype=np.uint64) | np.uint64(1)
        self._b = random.integers(2**64, size=(_PERMUTATIONS, 1), dtype=np.uint64)

    def bands_of(self, grams: frozenset[int]) -> list[bytes]:
        """A part of the signature for each band."""
        hashes = np.array(sorted(grams), dtype=np.uint64)
        least = np.full(_PERMUTATIONS, 2**64 - 1, dtype=np.uint64)
        for start in range(0, len(hashes), 4096):  # A prompt may be a book.
            some = (self._a * hashes[start : start + 4096] + self._b) >> np.uint64(32)
            least = np.minimum(least, some.min(axis=1))
        return [part.tobytes() for part in np.split(least, _BANDS)]


def _grams(text: str, n: int) -> Iterator[str]:
    """Sequences of n words; a text of fewer is one."""
    words = _WORD.findall(text.casefold()) or [text]
    return (" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1)))


def _hash(gram: str) -> int:
    encoded = gram.encode(errors="backslashreplace")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest())


def _jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    return len(a & b) / len(a | b)


def state_of(pool: Sequence[Problem], whole: Sequence[Problem], field: str) -> str:
    """What a part of a whole pool is like."""
    text = f"{len(pool)} rows, {len(pool) / len(whole):.1%} of the pool"
    if pool:
        lengths, all_lengths = ([len(p.prompt) for p in part] for part in (pool, whole))
        text += f" and {sum(lengths) / max(1, sum(all_lengths)):.1%} of its characters"
        text += f"; {fmean(lengths):.0f} characters"
    rates = [pass_rate_of(problem, field) for problem in pool if field in problem.fields]
    if rates:
        text += f"; {field} {fmean(rates):.3f} +- {pstdev(rates):.3f} of {len(rates)}"
    return text


class _Named(argparse.Action):
    """Keeps operators in the order in which they are given, of whatever kind."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        namespace.operators = [*namespace.operators, (option, values)]


def _operator(option: str, values: Sequence[str], field: str) -> Operator:
    name = " ".join((option, *values))
    if option == "--top":
        share = _number(name, values[1])
        if not 0 < share <= 1:
            raise UserError(f"{name}: expected a field, and a share within (0, 1]")
        return top_field(values[0], share)
    first, second = (_number(name, value) for value in values)
    if option in ("--dedup", "--top-entropy"):
        if not (first >= 1 and first.is_integer() and 0 < second <= 1):
            raise UserError(f"{name}: expected whole words, 1 or more, and a share within (0, 1]")
        return (without_repeats if option == "--dedup" else top_entropy)(int(first), second)
    if not first <= second:
        raise UserError(f"{name}: expected the lower bound first")
    if option == "--length":
        return by_length(first, second)
    return by_pass_rate(first, second, field)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{name}: expected a number, found {text!r:.80}") from None


def curate(pool_path: Path, chosen_path: Path, arguments: argparse.Namespace) -> None:
    """Read, apply, write, and say what became of the rows."""
    field = arguments.pass_rate_field
    operators = [
        (" ".join((option, *values)), _operator(option, values, field))
        for option, values in arguments.operators
    ]
    if not operators:
        raise UserError(
            "no operator: expected --length, --dedup, --pass-rate, --top-entropy, --top"
        )
    pool = whole = read_pool(pool_path, arguments.prompt_field)
    print(f"{pool_path}: {state_of(pool, whole, field)}")
    for name, operator in operators:
        before = len(pool)
        pool = operator(pool)
        print(f"{name}: {before - len(pool)} left out; {state_of(pool, whole, field)}")
    if not pool:
        raise UserError(f"{pool_path}: nothing is left, expected operators that keep some rows")
    try:
        with replacing_file(chosen_path) as unfinished:
            unfinished.write_text("".join(f"{p.line}\n" for p in pool), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{chosen_path}: cannot be written ({error.strerror})") from None


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 2 for bad input."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pool", type=Path)
    parser.add_argument("chosen", type=Path)
    parser.set_defaults(operators=[])
    for option, names in (
        ("--length", ("MIN", "MAX")),
        ("--pass-rate", ("LOW", "HIGH")),
        ("--dedup", ("N", "SIMILARITY")),
        ("--top-entropy", ("N", "SHARE")),
        ("--top", ("FIELD", "SHARE")),
    ):
        parser.add_argument(option, nargs=2, metavar=names, action=_Named, dest="operators")
    parser.add_argument("--prompt-field", default="prompt")
    parser.add_argument("--pass-rate-field", default="pass_rate")
    arguments = parser.parse_args(argv)
    try:
        curate(arguments.pool, arguments.chosen, arguments)
    except UserError as error:
        print(f"curate_prompts: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
