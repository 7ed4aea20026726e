"""Make docs/report.png and docs/compare.png from HTML pages. This needs Chromium.

  python docs/pictures.py runs/icarl/report.html compare.html

The first page is the report of a run, the second one is written by `cil-jax compare`.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
sys.path.append(str(DOCS.parent / "tests"))

import browser  # noqa: E402

WINDOW_WIDTH, PICTURE_WIDTH = 1000, 800  # pixels
COLORS = 96  # in the palette of a picture
# The parts of the page that each picture shows: CSS selectors of their first and last element.
PARTS = {
    "report.png": (("header", "#figure-tasks"), ("#classes", ".class:nth-child(3)")),
    "compare.png": (("header", "#numbers + .wide"),),
}


def main(pages: list[str]) -> None:
    """Writes the pictures.

    Args:
      pages: the file of the page for each entry of PARTS.
    """
    for (name, ends), page in zip(PARTS.items(), pages, strict=True):
        parts = [screenshot(page, first, last) for first, last in ends]
        picture = Image.new("RGB", (PICTURE_WIDTH, sum(part.height for part in parts)), "white")
        # Each part gets its share of the palette, so that photographs do not recolour the lines.
        palette: list[int] = []
        top = 0
        for part in parts:
            picture.paste(part, (0, top))
            top += part.height
            reduced = part.quantize(COLORS // len(parts), Image.Quantize.FASTOCTREE)
            palette += reduced.getpalette() or []
        colors = Image.new("P", (1, 1))
        colors.putpalette(palette)
        quantized = picture.quantize(palette=colors, dither=Image.Dither.NONE)
        quantized.save(DOCS / name, optimize=True)


def screenshot(page: str, first: str, last: str) -> Image.Image:
    """The part of a page from one element to another.

    Args:
      page: the file of the page.
      first, last: CSS selectors of the elements.
    """
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        browser.page(Path(folder) / "profile") as tab,
    ):
        tab.open(page, width=WINDOW_WIDTH, height=2000)
        if first != "header":
            tab.run("document.querySelector('nav').remove()")
        tab.run(f"document.querySelector('{first}').scrollIntoView()")
        top, bottom = (
            tab.run(f"document.querySelector('{name}').getBoundingClientRect().{side}")
            for name, side in ((first, "top"), (last, "bottom"))
        )
        file = Path(folder) / "window.png"
        tab.picture(file)
        window = Image.open(file).convert("RGB")
        part = window.crop((0, max(top - 24, 0), WINDOW_WIDTH, bottom + 2))
    size = (PICTURE_WIDTH, part.height * PICTURE_WIDTH // WINDOW_WIDTH)
    return part.resize(size, Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(sys.argv[1:])
