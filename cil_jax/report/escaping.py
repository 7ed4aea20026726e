"""Escapes text of users, such as class names and paths, for formats that would interpret it."""

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
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes such cells


def console(**options: Any) -> "Console":
    """A console that prints text as it is; by default, rich would interpret [red] or :cat:.

    Args:
      **options: arguments of `rich.console.Console` that take precedence.
    """
    from rich.console import Console  # slow to import

    return Console(**{"markup": False, "emoji": False, "highlight": False, **options})


def latex(text: str) -> str:
    """Escapes a text for LaTeX."""
    return re.sub(r"[&%$#_{}\\~^±]", lambda match: LATEX[match[0]], text)


def markdown(text: str) -> str:
    """Escapes a text for Markdown, also within a table, and joins its lines."""
    return re.sub(r"([\\`*_\[\]<>|~$])", r"\\\1", " ".join(text.split()))


def csv_table(rows: Iterable[Iterable[Any]]) -> str:
    """Writes rows as CSV.

    A text that a spreadsheet would run as a formula gets an apostrophe in front.
    """
    out = io.StringIO()
    harmless_rows = ([_harmless(cell) for cell in row] for row in rows)
    csv.writer(out, lineterminator="\n").writerows(harmless_rows)
    return out.getvalue()


def _harmless(cell: Any) -> Any:
    """A cell that no spreadsheet runs as a formula; numbers stay as they are."""
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\r", "\n")  # older versions of Python do not quote a carriage return
    if not cell.startswith(FORMULA_STARTS):
        return text
    try:
        float(cell)
    except ValueError:
        return f"'{text}"
    return cell
