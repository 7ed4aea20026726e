"""Tables, figures and pages, made from run folders alone, and the display of a run in progress.

Nothing here needs a device or the data set, and nothing here changes a result.
"""

from cil_jax.report.figures import draw, figure_pixels, is_drawn
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

__all__ = [
    "answers",
    "caption",
    "draw",
    "figure_pixels",
    "group_summary",
    "is_drawn",
    "reproduction",
    "reproduction_markdown",
    "selection",
    "summary",
    "write_page",
]
