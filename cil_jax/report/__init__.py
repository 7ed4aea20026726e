"""Tables, figures and pages, made from the files of a run folder. Nothing here needs a device."""

from cil_jax.report.figures import draw, is_drawn, pictures
from cil_jax.report.page import write_page
from cil_jax.report.tables import (
    caption,
    group_summary,
    reproduction,
    reproduction_markdown,
    selection,
    summary,
)

__all__ = [
    "caption",
    "draw",
    "group_summary",
    "is_drawn",
    "pictures",
    "reproduction",
    "reproduction_markdown",
    "selection",
    "summary",
    "write_page",
]
