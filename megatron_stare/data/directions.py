"""Directions among several objectives: written into prompts, and what of their responses is kept.

Directional preference alignment (arXiv 2402.18571): a user's preference is a unit vector v over the
objectives of a reward, and the reward of a response is v . r. Prompts say the direction, responses
are sampled to them, and the best of each by its own direction is learned from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from megatron_stare.data.tables import Row, RowReport, UnusableRow, build_rows, checked_text
from megatron_stare.errors import UserError
from megatron_stare.system.folders import replacing_file

TEMPLATE = "Your response should maximize weighted rating = {rating}"
"""What a system message says, unless another template is given; the paper's words."""
_LONGEST_ERROR = 1e-3
"""Of the length of a direction that is given, from 1."""

Vector = tuple[float, ...]
"""A number for each objective."""


@dataclass(frozen=True, slots=True)
class Arc:
    """Where directions are drawn from: at most `degrees` away from the first objective.

    Of two objectives that is an arc, v = (cos t, sin t) with t uniform in [-degrees, degrees]; of
    more it is a cap of the sphere, v = (cos t, sin t * u), with u uniform among unit vectors.
    """

    objectives: Sequence[str]
    degrees: float = 45.0

    def draw(self, random: Random) -> Vector:
        """A direction, of length 1."""
        angle = math.radians(random.uniform(-self.degrees, self.degrees))
        others = [random.gauss(0, 1) for _ in self.objectives[1:]]
        if len(others) == 1:  # Its sign is the angle's.
            others = [1.0]
        length = math.hypot(*others) or 1.0
        return (math.cos(angle), *(math.sin(angle) * x / length for x in others))


def rating(objectives: Sequence[str], direction: Vector) -> str:
    """How a prompt says a direction: in hundredths, as the paper's models read them.

    >>> rating(("helpfulness", "verbosity"), (0.965926, -0.258819))
    'helpfulness*97 + verbosity*-26'
    """
    pairs = zip(objectives, direction, strict=True)
    return " + ".join(f"{name}*{round(100 * part)}" for name, part in pairs)


def reward_along(direction: Vector, rewards: Vector) -> float:
    """v . r, in the unit of the rewards.

    >>> round(reward_along((0.965926, -0.258819), (70.0, 40.0)), 3)
    57.262
    """
    return math.fsum(v * r for v, r in zip(direction, rewards, strict=True))


def write_directions(
    source: Path,
    destination: Path,
    arc: Arc,
    *,
    template: str = TEMPLATE,
    prompt_field: str = "prompt",
    count: int = 1,
    seed: int = 1,
) -> RowReport:
    """Write every prompt of a file `count` times, each with a direction of its own.

    A row keeps its other fields, and gets `direction`. A template with `{prompt}` is the prompt's
    text; without it, the prompt becomes chat messages, with the template as the system's before
    those that are there.

    Args:
        template: has `{rating}` in it.
        prompt_field: text, or chat messages.

    Raises:
        UserError: no row can be used, or the file cannot be read or written.
    """
    random = Random(seed)

    def directed(row: Row) -> list[dict[str, Any]]:
        value = row.get(prompt_field)
        prompt = value if isinstance(value, list) else row.text(prompt_field)
        if isinstance(prompt, list) and "{prompt}" in template:
            raise UnusableRow(
                f"field {prompt_field!r} holds chat messages, the template has a text"
            )
        rows = []
        for _ in range(count):
            direction = arc.draw(random)
            said = template.replace("{rating}", rating(arc.objectives, direction))
            asked = _with(prompt, said)
            rows.append(row.fields | {prompt_field: asked, "direction": direction})
        return rows

    found, report = build_rows(source, directed)
    report.finish(len(found))
    _write(destination, (row for rows in found for row in rows))
    return report


def _with(prompt: str | list[Any], said: str) -> str | list[Any]:
    if "{prompt}" in said:
        return said.replace("{prompt}", str(prompt))
    asked = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    return [{"role": "system", "content": said}, *asked]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A response to a prompt with a direction, and its reward along that."""

    prompt: Any
    direction: Vector
    response: str
    reward: float


def keep_best(source: Path, destination: Path) -> RowReport:
    """Write the best candidate of every prompt with a direction, and beside it the worst.

    A row of the source has `prompt`, `direction`, `response` and `rewards`, a number for each
    objective. A row that is written has `prompt`, `direction`, `reward`, and the best candidate as
    `response` and `chosen`; `rejected` is the worst, where it is worth less. So it is an example
    for `sft`, and a pair for `prefer`. Of equals the first counts.

    Raises:
        UserError: no row can be used, or the file cannot be read or written.
    """
    found, report = build_rows(source, _candidate)
    report.finish(len(found))
    groups: dict[str, list[Candidate]] = {}
    for candidate in found:
        key = json.dumps([candidate.prompt, candidate.direction], sort_keys=True)
        groups.setdefault(key, []).append(candidate)
    _write(destination, map(_kept, groups.values()))
    return report


def _kept(candidates: Sequence[Candidate]) -> dict[str, Any]:
    best = max(candidates, key=lambda candidate: candidate.reward)
    worst = min(candidates, key=lambda candidate: candidate.reward)
    row = {
        "prompt": best.prompt,
        "direction": best.direction,
        "reward": best.reward,
        "response": best.response,
        "chosen": best.response,
    }
    return row | ({"rejected": worst.response} if worst.reward < best.reward else {})


def _candidate(row: Row) -> Candidate:
    direction, rewards = (_numbers(row, key) for key in ("direction", "rewards"))
    if len(direction) != len(rewards):
        raise UnusableRow("fields 'direction' and 'rewards' differ in length")
    if abs(math.hypot(*direction) - 1) > _LONGEST_ERROR:
        raise UnusableRow("field 'direction' has not length 1")
    response = checked_text(row.text("response"), "response")
    return Candidate(row.get("prompt"), direction, response, reward_along(direction, rewards))


def _numbers(row: Row, key: str) -> Vector:
    value = row.get(key)
    if not isinstance(value, list) or not value or not all(map(_is_number, value)):
        raise UnusableRow(f"field {key!r} holds no list of numbers")
    return tuple(float(number) for number in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    try:
        with replacing_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
