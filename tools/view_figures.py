"""The screenshots of docs/view.md: the viewer's page, wide and narrow, and its terminal.

.venv/bin/python tools/view_figures.py RUN docs/figures --place "step=4&group=1"
"""

from __future__ import annotations

import argparse
import asyncio
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from megatron_stare.observe.view.page import write_page
from megatron_stare.observe.view.reading import ViewedRun, read_view
from megatron_stare.observe.view.terminal import Viewer

SIZES = {"view.png": (1400, 720), "view_narrow.png": (480, 900)}
TERMINAL = (132, 36)
COLOURS = 256
TOKEN = ".token.clipped >> nth=0"


def main() -> None:
    """Write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--place", default="", help="what follows the # of the page's address")
    arguments = parser.parse_args()
    run = read_view(arguments.run_dir)
    of_terminal = asyncio.run(screenshot(run))
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        page_file = write_page(run, Path(scratch) / "page.html", [])
        terminal = Path(scratch) / "terminal.svg"
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, (width, height) in SIZES.items():
            page = chromium.new_page(viewport={"width": width, "height": height})
            page.goto(f"{page_file.as_uri()}#{arguments.place}")
            page.hover(TOKEN)
            save(page, arguments.folder / name)
        terminal.write_text(of_terminal)
        page = chromium.new_page(viewport={"width": 1400, "height": 800})
        page.goto(terminal.as_uri())
        save(page, arguments.folder / "view_terminal.png")
        chromium.close()


def save(page: Page, path: Path) -> None:
    """A screenshot of few colours: a small file."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


async def screenshot(run: ViewedRun) -> str:
    """The terminal at the last step, coloured by advantage, at a token; as SVG."""
    viewer = Viewer(run)
    async with viewer.run_test(size=TERMINAL) as pilot:
        await pilot.pause()
        await pilot.press(*["right_square_bracket"] * (len(run.steps) - 1), "tab", *["right"] * 4)
        await pilot.pause()
        return viewer.export_screenshot()


if __name__ == "__main__":
    main()
