"""Tables, figures and pages, made from run folders alone, and the display of a run in progress.

Nothing here needs a device or the data set, and nothing here changes a result.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cil_jax.report.page import write_page
from cil_jax.report.tables import (
    answers,
    caption,
    group_summary,
    reproduction,
    reproduction_markdown,
    selection,
    summary,
)

if TYPE_CHECKING:
    from cil_jax.report.figures import draw, figure_pixels

__all__ = [
    "answers",
    "caption",
    "draw",
    "figure_pixels",
    "group_summary",
    "reproduction",
    "reproduction_markdown",
    "selection",
    "summary",
    "write_page",
]


def __getattr__(name: str) -> Any:
    if name in ("draw", "figure_pixels"):  # with matplotlib, which is optional and slow to import
        return getattr(importlib.import_module("cil_jax.report.figures"), name)
    raise AttributeError(f"module 'cil_jax.report' has no attribute {name!r}")
