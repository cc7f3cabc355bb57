"""`view --html`: the dumps of a run as one HTML page that opens from a disk and fetches nothing.

Each step is a compressed text in it, which the page opens when the step is looked at.
"""

from __future__ import annotations

import base64
import html
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from megatron_stare.errors import UserError, without_surrogates
from megatron_stare.observe.run_folders import facts_of_turn
from megatron_stare.observe.view.reading import (
    MARKS,
    NUMBERS,
    Tokens,
    ViewedGroup,
    ViewedRun,
    ViewedSample,
    facts_of,
)
from megatron_stare.observe.view.shades import (
    ABOVE,
    BELOW,
    QUANTITIES,
    STRONGEST,
    scales_of,
    set_hues,
)
from megatron_stare.system.folders import write_whole
from megatron_stare.system.output import writing

MOST_TOKENS = 1_000_000
"""Of a page whose steps are not named: it then takes about 25 MB."""
_SHOWN = ("surprisal", *NUMBERS[1:])
_DIGITS = 4


def write_page(run: ViewedRun, path: Path, steps: Sequence[int]) -> Path:
    """Write the page of some steps; of none named, of as many as it has room for.

    Raises:
        UserError: a step was not dumped, a dump is malformed, or the page cannot be written.
    """
    if unknown := [step for step in steps if step not in run.dumps]:
        raise UserError(
            f"--steps {unknown[0]}: is not dumped, expected some of {run.steps[0]} to "
            f"{run.steps[-1]} ({len(run.steps)} steps)"
        )
    with writing(path, "--html"):
        write_whole(path, page_of(run, steps or steps_with_room(run)))
    return path


def steps_with_room(run: ViewedRun) -> list[int]:
    """Steps that are evenly spread, the first and the last among them, by their tokens."""
    sizes = [run.num_tokens(step) for step in run.steps]
    count = len(run.steps)
    while True:
        places = sorted({round(i) for i in np.linspace(0, len(run.steps) - 1, count)})
        if sum(sizes[place] for place in places) <= MOST_TOKENS or count <= 2:
            return [run.steps[place] for place in places]
        count -= 1


def page_of(run: ViewedRun, steps: Sequence[int]) -> str:
    """The page."""
    facts = {
        "steps": steps,
        "quantities": {
            name: [quantity.label, quantity.unit, quantity.centre]
            for name, quantity in QUANTITIES.items()
        },
        "hues": [ABOVE, BELOW, STRONGEST],
        "marks": MARKS,
    }
    data = "\n".join(
        f'<script type="text/plain" id="step-{step}">{_packed(_step(run, step))}</script>'
        for step in steps
    )
    template = (files("megatron_stare.observe.view") / "page.html").read_text(encoding="utf-8")
    for name, text in (
        ("TITLE", html.escape(run.name)),
        ("FACTS", json.dumps(facts).replace("<", "\\u003c")),
        ("DATA", data),
    ):
        template = template.replace(f"@@{name}@@", text)
    return template


def _packed(value: Any) -> str:
    text = without_surrogates(json.dumps(value, ensure_ascii=False, allow_nan=False))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")


def _step(run: ViewedRun, step: int) -> dict[str, Any]:
    groups = run.groups(step)
    known = {group.number: run.tokens(step, group) for group in groups}
    everything = [tokens for of_group in known.values() for tokens in of_group.values()]
    names = sorted({name for each in everything for name in ",".join({*each.sets}).split(",")})
    return {
        "reach": {name: _rounded(scale.reach) for name, scale in scales_of(everything).items()},
        "sets": set_hues([name for name in names if name]),
        "groups": [_group(group, known[group.number]) for group in groups],
    }


def _group(group: ViewedGroup, known: Mapping[int, Tokens]) -> dict[str, Any]:
    first = group.first
    return {
        "number": group.number,
        "uid": first.uid,
        "source": first.source,
        "prompt": first.prompt,
        "answer": first.answer,
        "dropped": first.dropped if not first.kept else None,
        "kept": first.kept,
        "right": group.num_right,
        "samples": [_sample(sample, known.get(sample.index)) for sample in group.samples],
    }


def _sample(sample: ViewedSample, tokens: Tokens | None) -> dict[str, Any]:
    turns = [[turn.start, turn.kind, facts_of_turn(asdict(turn))] for turn in sample.turns]
    known: dict[str, Any] = {
        "index": sample.index,
        "marks": sorted(sample.marks, key=MARKS.index),
        "facts": " · ".join(facts_of(sample, None if tokens is None else len(tokens.texts))),
        "turns": turns,
    }
    if tokens is not None:
        return known | {"tokens": _tokens(tokens)}
    texts = [turn.text for turn in sample.turns] or [sample.response]
    return known | {"texts": texts}


def _tokens(tokens: Tokens) -> dict[str, Any]:
    return {
        "text": tokens.texts,
        "counted": tokens.counted.astype(int).tolist(),
        "set": tokens.sets,
        "clip": tokens.clips,
        **{name: [_rounded(v) for v in tokens.numbers[name].tolist()] for name in _SHOWN},
    }


def _rounded(value: float) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
