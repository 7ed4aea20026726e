"""The page of a run: one file beside its figures, to be opened from disk."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np

from cil_jax.record import RunFolder, replace_text
from cil_jax.report.tables import LAST_ROWS, SUMMARY_ROWS, caption, column_name, percent

TITLES = {
    "seen_accuracy.png": "Accuracy by the number of classes",
    "accuracy_matrix.png": "Accuracy on each task after each task",
    "curves.png": "Loss and accuracy of the current task",
    "confusion.png": "What is taken for what",
}


def write_page(folder: RunFolder, class_names: Sequence[str]) -> Path:
    """Writes report.html of a run whose figures are drawn.

    Args:
      folder: a run with results.
      class_names: in the order in which classes came.

    Returns:
      The file.
    """
    results = folder.results()
    own = results["classifiers"][results["headline"]]
    bounds = np.cumsum(results["task_sizes"])
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["percent"] = percent
    text = (resources.files("cil_jax") / "report" / "page.html").read_text()
    page = environment.from_string(text).render(
        results=results,
        own=own,
        seen=bounds.tolist(),
        n_learned=len(own["seen_accuracy"]),
        caption=caption(results),
        column_name=column_name,
        summary_rows=SUMMARY_ROWS,
        last_rows=LAST_ROWS,
        figures=[(title, file) for file, title in TITLES.items()],
        tasks=[part.tolist() for part in np.split(np.array(class_names), bounds[:-1])],
        settings=folder.config_file.read_text(),
    )
    replace_text(folder.report_file, page)
    return folder.report_file
