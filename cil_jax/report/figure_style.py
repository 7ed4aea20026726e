"""How figures look, and how they are written to files."""

import contextlib
import textwrap
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from cil_jax.errors import UserError, needs_extra
from cil_jax.files import writing
from cil_jax.report.tables import caption

with needs_extra("plots", "figures"):
    import matplotlib
    from matplotlib.figure import Figure

    from cil_jax.report.fonts import drawable, families

# The palette of Okabe and Ito, whose colours are distinct under any colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLE: dict[Any, Any] = {  # matplotlib's type of the keys is a long Literal
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "axes.edgecolor": "#888888",
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "figure.dpi": 120,
    "text.parse_math": False,  # names of classes and folders may contain a $
}
TITLE_WIDTH = 72  # characters per line in a title

# Figures are also drawn in background threads, and matplotlib's style is global to the process.
_STYLE_LOCK = threading.RLock()


@contextlib.contextmanager
def styled(text: str) -> Iterator[None]:
    """Sets the style, with fonts for `text`, while figures are made and drawn."""
    with _STYLE_LOCK, matplotlib.rc_context({**STYLE, "font.family": families(text)[0]}):
        yield


def title(results: Mapping[str, Any]) -> str:
    """The caption of a run, in lines that fit a figure."""
    return textwrap.fill(drawable(caption(results)), TITLE_WIDTH)


def save(figure: Figure, out: IO[bytes], file_format: str) -> None:
    """Writes a figure with all that lies around its axes, such as a legend or long names.

    Raises:
      ValueError: if matplotlib does not know the format.
    """
    # Fonts of PDF files are TrueType: journals refuse the Type 3 fonts of the default.
    with _STYLE_LOCK, matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(out, format=file_format, bbox_inches="tight")


def write(figure: Figure, file: str) -> None:
    """Writes a figure, in the format that the file's name ends in; PNG if in none.

    Raises:
      UserError: if matplotlib does not know the format, or the file can't be written.
    """
    try:
        with writing.writing(file), writing.replaced(file) as out:
            save(figure, out, Path(file).suffix[1:] or "png")
    except ValueError as error:  # an unknown format
        raise UserError(f"can't write {file}: {error}") from error
