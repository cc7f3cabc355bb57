"""The plans in the recipes' READMEs, made anew: every number there is what the command prints.

    python tools/refresh_plans.py            write them
    python tools/refresh_plans.py --check    exit 1 where one is not what it would be

A README marks the places, with the arguments behind the config's path:
    <!-- plan: --gpus 64 --rollout-gpus 48 -->
    ...
    <!-- end of plan -->
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
import sys
from pathlib import Path

from megatron_stare.cli import main as megatron_stare

REPO = Path(__file__).parents[1]
PLACE = re.compile(r"<!-- plan: (?P<arguments>.*?) -->\n.*?<!-- end of plan -->", re.DOTALL)


def recipes() -> list[Path]:
    """Folders of examples that have the shape of a published model."""
    return sorted(path.parents[1] for path in (REPO / "examples").glob("*/model/config.json"))


def refreshed(recipe: Path) -> str:
    """The recipe's README with its plans as they are now."""

    def fill(place: re.Match[str]) -> str:
        arguments = place["arguments"]
        name = recipe.relative_to(REPO)
        command = f"megatron-stare plan {name}/train.yaml model.path={name}/model {arguments}"
        printed = run_plan(recipe, arguments)
        return f"<!-- plan: {arguments} -->\n```\n{command}\n```\n\n{printed}\n<!-- end of plan -->"

    return PLACE.sub(fill, (recipe / "README.md").read_text(encoding="utf-8"))


def run_plan(recipe: Path, arguments: str) -> str:
    """What `megatron-stare plan` prints of a recipe."""
    printed = io.StringIO()
    model = f"model.path={recipe / 'model'}"
    with contextlib.redirect_stdout(printed):
        code = megatron_stare(["plan", str(recipe / "train.yaml"), model, *shlex.split(arguments)])
    if code:
        raise SystemExit(f"{recipe.name}: plan {arguments} exits with {code}")
    return printed.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    stale = []
    for recipe in recipes():
        path, text = recipe / "README.md", refreshed(recipe)
        if text != path.read_text(encoding="utf-8"):
            stale.append(str(path.relative_to(REPO)))
            if not check:
                path.write_text(text, encoding="utf-8")
    print("\n".join(stale) or "all plans are as they would be")
    sys.exit(check and bool(stale))


if __name__ == "__main__":
    main()
