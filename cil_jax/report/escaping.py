"""Text of users, such as class names and paths, where a library or a format would interpret it."""

import csv
import io
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the start of one


def console(**options: Any) -> "Console":
    """A console that prints text as it is: rich would take [red] or :cat: for its own.

    Args:
      **options: of `rich.console.Console`.
    """
    from rich.console import Console  # which takes a while to import

    return Console(**{"markup": False, "emoji": False, "highlight": False, **options})


def latex(text: str) -> str:
    """A text as LaTeX shows it."""
    return re.sub(r"[&%$#_{}\\~^±]", lambda match: LATEX[match[0]], text)


def markdown(text: str) -> str:
    """A text as Markdown shows it, also within a table."""
    return re.sub(r"([\\`*_\[\]<>|~$])", r"\\\1", " ".join(text.split()))


def csv_table(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV. A text that a spreadsheet would compute begins with an apostrophe instead."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([_harmless(c) for c in row] for row in rows)
    return out.getvalue()


def _harmless(cell: Any) -> Any:
    if not isinstance(cell, str) or not cell.startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
