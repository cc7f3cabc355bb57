"""`megatron-stare report`: PNGs, and one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

from megatron_stare.errors import without_surrogates
from megatron_stare.observe.drawing import colour_legend
from megatron_stare.observe.health import signs_of
from megatron_stare.observe.metrics import find_metric
from megatron_stare.observe.plots import Plot, write_figures
from megatron_stare.observe.run_folders import (
    RunFolder,
    Runs,
    ShownSample,
    ShownTurn,
    read_runs,
    titles,
)
from megatron_stare.observe.summary import MISSING, summarise
from megatron_stare.system.folders import write_whole
from megatron_stare.system.nested import dotted
from megatron_stare.system.output import make_folder, writing

SAMPLES_PER_STEP = 3
PIXELS_PER_INCH = 105
"""Size of the figures on the page: one scale, so that their text is equally large."""
MAX_CHARACTERS = 6000
"""A longer text is shown by its first and last half as many characters."""


def write_report(runs: Sequence[Path], destination: Path) -> Path:
    """Compare run folders: a PNG per figure and `report.html` in `destination`; returns the page.

    Runs whose names differ in `-seedN` only are drawn as one, with their mean and range.

    Raises:
        UserError: a folder is not that of a run, two have the same name, or `destination` cannot be
            written.
    """
    by_label = read_runs(runs)
    make_folder(destination, "--out")
    page = destination / "report.html"
    with writing(page, "--out"):
        plots = write_figures(by_label, destination)
        write_whole(page, html_page(by_label, plots))
    return page


def config_differences(runs: Runs) -> list[list[str]]:
    """Keys whose values differ between labels, each with the value under every label.

    What tells seeds apart, `run.dir` and `run.seed`, is left out; a key that differs between the
    seeds of a label shows all its values.
    """
    flat = [
        [{key: str(value) for key, value in dotted(run.config)} for run in group]
        for group in runs.values()
    ]
    keys = dict.fromkeys(key for group in flat for config in group for key in config)
    rows = []
    for key in keys:
        cells = [" | ".join(dict.fromkeys(c.get(key, MISSING) for c in group)) for group in flat]
        is_different = len(set(cells)) > 1 or any(" | " in cell for cell in cells)
        if is_different and key not in ("run.dir", "run.seed"):
            rows.append([key, *cells])
    return rows


def html_page(runs: Runs, plots: Sequence[Plot]) -> str:
    """The page of a comparison, with the figures that `write_figures` drew in it."""
    header, rows = summarise(runs)
    chips = (
        f'<li><span style="background:{colour}"></span>{html.escape(name)}</li>'
        for name, colour in colour_legend(runs).items()
    )
    differences = config_differences(runs)
    sections = [
        _section("Summary", _table(header, rows)),
        _section("Signs", _signs(runs)),
        *(_section(plot.title, _figure(plot)) for plot in plots),
        _section("Config differences", _table(["key", *titles(runs)], differences))
        if differences
        else "",
        _section("Samples", "".join(_samples(label, group[0]) for label, group in runs.items())),
    ]
    return _PAGE.substitute(
        title=html.escape(" · ".join(runs)), chips="".join(chips), sections="\n".join(sections)
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>" if body else ""


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{_escaped(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _signs(runs: Runs) -> str:
    """What runs have said of themselves, each sign at the step that first showed it."""
    lines = [
        f"<li><b>{_escaped(run.path.name)}</b> {_escaped(line)}</li>"
        for group in runs.values()
        for run in group
        for line in signs_of(run.history)
    ]
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


def _figure(plot: Plot) -> str:
    image = base64.b64encode(plot.path.read_bytes()).decode("ascii")
    title = html.escape(plot.title)
    meaning = "".join(
        f"<dt>{name}</dt><dd>{html.escape(find_metric(name).description)}</dd>"
        for name in plot.metrics
    )
    width = round(plot.width_inches * PIXELS_PER_INCH)
    return (
        f'<img alt="{title}" width="{width}" src="data:image/png;base64,{image}">'
        f"<details><summary>What is drawn</summary><dl>{meaning}</dl></details>"
    )


def _samples(label: str, run: RunFolder) -> str:
    """The first and the last dumped step of a run, side by side."""
    steps = run.sample_steps()
    columns = "".join(
        f"<div><h4>step {step}</h4>"
        + "".join(_sample(sample) for sample in run.samples(step, SAMPLES_PER_STEP))
        + "</div>"
        for step in dict.fromkeys(steps[:1] + steps[-1:])
    )
    if not columns:
        return ""
    return (
        f"<details open><summary>{html.escape(label)}, from {_escaped(run.path.name)}"
        f'</summary><div class="steps">{columns}</div></details>'
    )


def _sample(sample: ShownSample) -> str:
    verdict = "right" if sample.correct == 1 else "wrong"
    if math.isnan(sample.correct):
        verdict = "not judged"
    reward = MISSING if math.isnan(sample.reward) else f"{sample.reward:.3g}"
    facts = f"reward {reward} · {verdict} · {sample.finish_reason}"
    return (
        f'<article class="{verdict}"><p>{_escaped(facts)}</p>'
        f'<pre class="prompt">{_text(sample.prompt)}</pre>'
        + "".join(_turn(turn) for turn in sample.turns or [ShownTurn("model", sample.response, "")])
        + "</article>"
    )


def _turn(turn: ShownTurn) -> str:
    facts = f'<p class="turn">{_escaped(turn.facts)}</p>' if turn.facts else ""
    return f'{facts}<pre class="{_escaped(turn.kind)}">{_text(turn.text)}</pre>'


def _text(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        half = MAX_CHARACTERS // 2
        left_out = f"\n[… {len(text) - 2 * half:,} characters …]\n"
        text = text[:half] + left_out + text[-half:]
    return _escaped(text)


def _escaped(text: str) -> str:
    return html.escape(without_surrogates(text))


_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; color: #22262c; background: #f5f6f8; margin: 0; }
  main { max-width: 1180px; margin: 0 auto; padding: 24px; }
  h1 { font-size: 22px; margin: 8px 0; }
  h2 { font-size: 17px; margin: 0 0 12px; }
  h4 { margin: 12px 0 4px; color: #6b727d; font-weight: 600; }
  section { background: #fff; border: 1px solid #e3e6ea; border-radius: 8px; padding: 18px 20px;
            margin: 16px 0; }
  img { display: block; max-width: 100%; height: auto; }
  ul.runs { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 6px 20px; }
  ul.runs span { display: inline-block; width: 22px; height: 5px; border-radius: 3px;
                 margin-right: 8px; vertical-align: middle; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
  th, td { padding: 4px 18px 4px 0; text-align: right; border-bottom: 1px solid #eef0f2; }
  th:first-child, td:first-child { text-align: left; }
  th { font-weight: 600; }
  summary { cursor: pointer; color: #6b727d; font-size: 13px; }
  dl { font-size: 13px; color: #4a5059; display: grid; grid-template-columns: max-content 1fr;
       gap: 2px 16px; }
  dt { font-family: ui-monospace, monospace; }
  dd { margin: 0; }
  .steps { display: grid; gap: 20px;
           grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); }
  article { border-left: 3px solid #c8474f; padding-left: 12px; margin: 0 0 14px; }
  article.right { border-color: #3f9c74; }
  article p { margin: 0; font-size: 12px; color: #6b727d; }
  pre { margin: 4px 0; font: 12.5px/1.45 ui-monospace, monospace; white-space: pre-wrap;
        overflow-wrap: anywhere; max-height: 22em; overflow-y: auto; }
  article p.turn { margin-top: 6px; }
  pre.prompt { color: #6b727d; }
  pre.observation, pre.notice { color: #6b727d; background: #f5f6f8; padding: 4px 8px; }
</style>
<main>
<h1>$title</h1>
<ul class="runs">$chips</ul>
$sections
</main>
</html>
""")
