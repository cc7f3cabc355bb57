"""Public sets of problems, as their files come from the Hub, to the rows that runs read.

    python tools/prepare_data.py data \
        --train dapo=dapo-math-17k.parquet polaris=polaris-53K.parquet \
        --eval aime24=aime24.jsonl math500=test.jsonl

writes data/train.jsonl, all training sets after one another, and data/NAME.jsonl of each evaluation
set, rows of {"prompt", "answer", "source"}; and prints what became of every row. A training problem
is left out where it has been before, in its own set or in one named earlier, and where it is an
evaluation problem: the same words, or half of the sequences of 8 words of one of them. Instructions
on how to answer that a set wraps its problems in are taken off: that is the config's template.

Files are .parquet, .jsonl or .json; a set that is split over several is named several times.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import tempfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_stare.data.tables import Row, UnusableRow, build_rows, checked_text
from megatron_stare.errors import UserError
from megatron_stare.rewards.answers import stated_answer
from megatron_stare.system.folders import replacing_file

_DAPO = re.compile(
    r"\ASolve the following math problem step by step\. The last line .*?\n\n(?P<problem>.*?)"
    r"\n\nRemember to put your answer on its own line after \"Answer:\"\.?\s*\Z",
    re.DOTALL,
)
_LONGEST_ANSWER = 200
_GRAM_WORDS = 8
_SHARED = 0.5
"""Of an evaluation problem's sequences of words: in a training problem, that is the same one."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of what is written."""

    prompt: str
    answer: str
    source: str


def field_of(*names: str) -> Callable[[Row], Any]:
    """The first of some fields that a row has; uploads of a set differ in them."""

    def get(row: Row) -> Any:
        for name in names:
            try:
                return row.get(name)
            except UnusableRow:
                continue
        raise UnusableRow(f"none of the fields {', '.join(names)}")

    return get


def message(row: Row) -> str:
    """The only message of a chat, without what DAPO wraps its problems in."""
    chat = row.get("prompt")
    if not isinstance(chat, list) or len(chat) != 1 or not isinstance(chat[0], dict):
        raise UnusableRow("field 'prompt' is no chat of one message")
    text = str(chat[0].get("content") or "")
    wrapped = _DAPO.match(text)
    return wrapped["problem"] if wrapped else text


def short_answer(value: Any) -> str:
    """The answer that a field holds: a text, the box in one, a number, or a list of one of them."""
    if isinstance(value, str) and value.startswith('["'):
        # A list written as JSON; what does not read as one is an answer in brackets.
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, list):
        if len(value) != 1:
            raise UnusableRow(f"{len(value)} answers")
        (value,) = value
    answer = stated_answer(str(value))
    if len(answer) > _LONGEST_ANSWER:
        raise UnusableRow(f"an answer of over {_LONGEST_ANSWER} characters")
    return checked_text(answer, "answer")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a set keeps problem and answer."""

    problem: Callable[[Row], Any]
    answer: Callable[[Row], Any]


_PLAIN = Layout(
    field_of("problem", "Problem", "question", "Question"),
    field_of("answer", "Answer", "final_answer", "solution"),
)
_CHAT = Layout(message, field_of("reward_model.ground_truth"))
SETS: dict[str, Layout] = {
    "dapo": _CHAT,
    "skywork": _CHAT,
    "deepscaler": _PLAIN,
    "polaris": _PLAIN,
    "aime24": _PLAIN,
    "aime25": _PLAIN,
    "amc23": _PLAIN,
    "math500": _PLAIN,
    "minerva": _PLAIN,
    "olympiadbench": _PLAIN,
}
"""By the name that `--train` and `--eval` take."""


@dataclass(slots=True)
class Account:
    """What became of a set's rows, by reason; those that are kept too."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        rows = ", ".join(f"{count} {reason}" for reason, count in self.counts.most_common())
        return f"{self.name}: {self.counts.total()} rows: {rows}"


def read_set(name: str, paths: Iterable[Path], account: Account) -> list[Problem]:
    """The usable problems of a set, in order; the others are counted.

    Raises:
        UserError: a file is missing, of another kind, or has no usable row.
    """
    layout = SETS[name]

    def build(row: Row) -> Problem:
        prompt = checked_text(str(layout.problem(row)).strip(), "problem")
        return Problem(prompt, short_answer(layout.answer(row)), name)

    problems: list[Problem] = []
    for path in paths:
        with tempfile.TemporaryDirectory() as scratch:
            found, report = build_rows(as_rows(path, Path(scratch)), build)
        report.finish(len(found))
        problems += found
        account.counts.update({reason: len(rows) for reason, rows in report.left_out.items()})
    return problems


def as_rows(path: Path, scratch: Path) -> Path:
    """The file itself; of a JSON array a file of its objects, one a line, in `scratch`."""
    if path.suffix != ".json" or not path.is_file():
        return path
    try:
        array = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(array, list):
        raise UserError(f"{path}: expected an array of objects, found {type(array).__name__}")
    return write_rows(scratch / f"{path.name}.jsonl", array)


def words_of(problem: str) -> tuple[str, ...]:
    """Letters and digits only: LaTeX, punctuation and case make no other problem."""
    text = unicodedata.normalize("NFKC", problem).casefold()
    return tuple(re.findall(r"[^\W_]+", text))


def grams(words: Sequence[str]) -> set[tuple[str, ...]]:
    """All sequences of 8 words; of fewer words, all of them."""
    last = max(len(words) - _GRAM_WORDS, 0)
    return {tuple(words[i : i + _GRAM_WORDS]) for i in range(last + 1)}


class HeldOut:
    """Evaluation problems, and whether another is one of them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self._sizes: list[int] = []
        self._holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, problem in enumerate(problems):
            found = grams(words_of(problem.prompt))
            self._sizes.append(len(found))
            for gram in found:
                self._holders[gram].append(number)

    def has(self, words: Sequence[str]) -> bool:
        """Whether half of one of them is in these words."""
        shared = Counter(number for gram in grams(words) for number in self._holders.get(gram, ()))
        return any(count >= _SHARED * self._sizes[number] for number, count in shared.items())


def select(
    problems: Iterable[Problem], held_out: HeldOut, seen: set[tuple[str, ...]], account: Account
) -> Iterator[Problem]:
    """Those that are new and not held out; `seen` grows."""
    own: set[tuple[str, ...]] = set()
    for problem in problems:
        words = words_of(problem.prompt)
        if words in own:
            account.counts["twice in the set"] += 1
        elif words in seen:
            account.counts["in a set before"] += 1
        elif held_out.has(words):
            account.counts["in an evaluation set"] += 1
        else:
            account.counts["kept"] += 1
            yield problem
        own.add(words)
    seen |= own


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def plain(problem: Problem) -> dict[str, str]:
    return {"prompt": problem.prompt, "answer": problem.answer, "source": problem.source}


def prepare(
    folder: Path, train: dict[str, list[Path]], evaluation: dict[str, list[Path]]
) -> list[Account]:
    """Write everything into `folder`; the account of each set, in order."""
    accounts: list[Account] = []
    held_out: list[Problem] = []
    for name, paths in evaluation.items():
        accounts.append(account := Account(name))
        problems = read_set(name, paths, account)
        account.counts["kept"] += len(problems)
        write_rows(folder / f"{name}.jsonl", map(plain, problems))
        held_out += problems
    index, seen, kept = HeldOut(held_out), set(), []
    for name, paths in train.items():
        accounts.append(account := Account(name))
        kept += select(read_set(name, paths, account), index, seen, account)
    if train:
        write_rows(folder / "train.jsonl", map(plain, kept))
    return accounts


def by_name(pairs: Iterable[str]) -> dict[str, list[Path]]:
    """`name=file` pairs; UserError for another name."""
    sets: dict[str, list[Path]] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not equals or name not in SETS:
            raise UserError(f"{pair!r}: expected NAME=FILE, NAME one of {', '.join(SETS)}")
        sets.setdefault(name, []).append(Path(path))
    return sets


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="to write into")
    parser.add_argument("--train", nargs="+", default=[], metavar="NAME=FILE")
    parser.add_argument("--eval", nargs="+", default=[], metavar="NAME=FILE")
    arguments = parser.parse_args(argv)
    try:
        sets = by_name(arguments.train), by_name(arguments.eval)
        print(*prepare(arguments.folder, *sets), sep="\n")
    except (UserError, OSError) as error:
        print(f"prepare_data: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
