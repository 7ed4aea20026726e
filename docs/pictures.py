"""Makes docs/report.png and docs/compare.png from the pages of runs; needs Chromium.

python docs/pictures.py runs/icarl/report.html compare.html
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
sys.path.append(str(DOCS.parent / "tests"))

import browser  # noqa: E402

WIDTH, SHOWN, COLORS = 1000, 800, 96  # pixels of the window and of the picture
# For each picture, the parts of its page that it has: from which element to which.
PARTS = {
    "report.png": (("header", "#figure-tasks"), ("#classes", ".class:nth-child(3)")),
    "compare.png": (("header", "#numbers + .wide"),),
}


def main(pages: list[str]) -> None:
    """Writes each picture from its page."""
    for (name, parts), page in zip(PARTS.items(), pages, strict=True):
        found = [part(page, *ends) for ends in parts]
        whole = Image.new("RGB", (SHOWN, sum(one.height for one in found)), "white")
        palette: list[int] = []  # each part has its share: photographs do not change the lines
        for number, one in enumerate(found):
            whole.paste(one, (0, sum(above.height for above in found[:number])))
            few = one.quantize(COLORS // len(found), Image.Quantize.FASTOCTREE)
            palette += few.getpalette()
        colors = Image.new("P", (1, 1))
        colors.putpalette(palette)
        whole.quantize(palette=colors, dither=Image.Dither.NONE).save(DOCS / name, optimize=True)


def part(page: str, first: str, last: str) -> Image.Image:
    """A page from an element to another."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        browser.page(Path(folder) / "profile") as tab,
    ):
        tab.open(page, width=WIDTH, height=2000)
        if first != "header":
            tab.run("document.querySelector('nav').remove()")
        tab.run(f"document.querySelector('{first}').scrollIntoView()")
        top, bottom = (
            tab.run(f"document.querySelector('{name}').getBoundingClientRect().{side}")
            for name, side in ((first, "top"), (last, "bottom"))
        )
        file = Path(folder) / "window.png"
        tab.picture(file)
        cut = Image.open(file).convert("RGB").crop((0, max(top - 24, 0), WIDTH, bottom + 2))
    return cut.resize((SHOWN, cut.height * SHOWN // WIDTH), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(sys.argv[1:])
