"""Makes docs/report.png and docs/compare.png from the pages of runs; needs Chromium.

python docs/pictures.py runs/icarl/report.html compare.html
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
sys.path.append(str(DOCS.parent / "tests"))

import browser  # noqa: E402

WIDTH, SHOWN, COLORS = 1000, 800, 128  # pixels of the window and of the picture
# For each picture, the windows that it has below each other: where one begins, and its height.
WINDOWS = {
    "report.png": (("header", 1350), ("#classes", 370)),
    "compare.png": (("header", 830),),
}


def main(pages: list[str]) -> None:
    """Writes each picture from its page."""
    for (name, windows), page in zip(WINDOWS.items(), pages, strict=True):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            parts = [part(page, *window, folder) for window in windows]
        whole = Image.new("RGB", (WIDTH, sum(one.height for one in parts)), "white")
        for number, one in enumerate(parts):
            whole.paste(one, (0, sum(above.height for above in parts[:number])))
        whole = whole.resize((SHOWN, whole.height * SHOWN // WIDTH), Image.Resampling.LANCZOS)
        few = whole.quantize(COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(DOCS / name, optimize=True)


def part(page: str, begins: str, height: int, folder: str) -> Image.Image:
    """A window of a page, from an element on."""
    with browser.page(Path(folder) / begins) as tab:
        tab.open(page, width=WIDTH, height=height)
        if begins != "header":
            tab.run("document.querySelector('nav').remove()")
            tab.run("document.documentElement.style.scrollPadding = '0'")
            tab.run(f"document.querySelector('{begins}').scrollIntoView()")
        tab.picture(Path(folder) / "window.png")
    return Image.open(io.BytesIO((Path(folder) / "window.png").read_bytes())).convert("RGB")


if __name__ == "__main__":
    main(sys.argv[1:])
