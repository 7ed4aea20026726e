"""Find out why a run forgot: where its errors are, and what has changed since each task.

  cil-jax why runs/icarl

Nothing is trained. A run that was trained with --features 1000 has saved the features of about a
thousand test images after each task; then the table also says how far the features have moved since
each task was learned. The result is saved as why.json in the run folder and shown on its page.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cil_jax.app.accelerator import start_accelerator
from cil_jax.app.command_line import (
    add_code_flags,
    check_writable,
    command_parser,
    guarded,
    saved_settings,
)
from cil_jax.errors import UserError
from cil_jax.settings import code
from cil_jax.settings.config import ACCELERATORS, help_of

if TYPE_CHECKING:
    from cil_jax.storage.run_folder import RunFolder


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code. `arguments` replace those of the command line."""
    return guarded(lambda: _why(arguments))


def _why(arguments: list[str] | None) -> None:
    parser = command_parser("why", __doc__)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--data-dir", metavar="DIR", help=help_of("data_dir"))
    parser.add_argument("--json", action="store_true", help="print why.json instead of a table")
    parser.add_argument(
        "--figure", metavar="FILE",
        help="also draw the saved features in two dimensions, a picture for each task, to FILE, "
        "such as x.png, and how far the class means drift to x-drift.png",
    )  # fmt: skip
    parser.add_argument(
        "--projection", choices=("pca", "tsne"), default="pca",
        help="pca: the main axes of the last features, the same in all pictures; tsne: t-SNE, each "
        "picture by itself",
    )  # fmt: skip
    parser.add_argument(
        "--accelerator", choices=ACCELERATORS, default="auto",
        help=f"{help_of('accelerator')} (default: auto)",
    )  # fmt: skip
    add_code_flags(parser)
    flags = parser.parse_args(arguments)
    check_writable(flags.figure)
    code.name(flags.method, flags.backbone)
    config = saved_settings(flags.run, data_dir=flags.data_dir)
    start_accelerator(flags.accelerator)

    from cil_jax import report
    from cil_jax.report import causes, escaping
    from cil_jax.storage.run_folder import RunFolder
    from cil_jax.trained import why
    from cil_jax.training.callbacks import Callback
    from cil_jax.training.loop import Run

    run = Run(config, RunFolder(flags.run), Callback())
    found = why.causes(run)
    run.folder.write_causes(found)
    page = report.write_page(run.folder)
    if flags.figure:
        _draw(run.folder, flags.figure, flags.projection)
    if flags.json:
        print(json.dumps(found, indent=1))
        return
    console = escaping.console()
    console.width = max(console.width, 130)  # wrap rows rather than cut cells
    console.print(causes.table(found, run.folder.results()))
    lines = [*causes.NOTES, "", *causes.sentences(found), "", f"page: {page}"]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if found["tasks"][0]["similarity"] is None:
        console.print(
            "Drift and similarity need a run that was trained with --features 1000.",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


def _draw(folder: "RunFolder", file: str, projection: str) -> None:
    from cil_jax.report import feature_figures
    from cil_jax.report.figure_style import styled, write
    from cil_jax.storage.schemas import n_learned

    results = folder.results()
    saved = [folder.features(task) for task in range(n_learned(results))]
    present = [features for features in saved if features is not None]
    if len(present) < len(saved):
        raise UserError(f"{folder.path} has no features of all tasks: train with --features 1000")
    with styled(""):
        write(feature_figures.features(present, results, projection), file)
        path = Path(file)
        drift_file = path.with_stem(f"{path.stem}-drift")
        write(feature_figures.drift(present, results), str(drift_file))
