"""Redraw the figures and the report page of runs.

  cil-jax report runs/icarl
  cil-jax report runs/icarl --format pdf svg    # for a paper

Everything is read from the run folders. The data set is not needed.
"""

from cil_jax import report
from cil_jax.app.command_line import command_parser, guarded, warn
from cil_jax.errors import MissingExtra, UserError
from cil_jax.files import writing
from cil_jax.report.escaping import console
from cil_jax.storage.run_folder import RunFolder


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code. `arguments` replace those of the command line."""
    return guarded(lambda: _report(arguments))


def _report(arguments: list[str] | None) -> None:
    parser = command_parser("report", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder")
    parser.add_argument(
        "--format", nargs="+", choices=("png", "pdf", "svg"), default=["png"], metavar="NAME",
        help="formats of the figures: png, pdf, svg or several of them (default: png)",
    )  # fmt: skip
    flags = parser.parse_args(arguments)
    folders = [RunFolder(run) for run in flags.runs]
    for folder in folders:
        folder.settings()  # raises if there is no run
        if not folder.results_file.exists():
            raise UserError(f"{folder.path} has no results yet: its first task is not finished")
        folder.need(("class_names", "memory"), "whose page can't be made")
    for folder in folders:
        lines, problems = folder.read_metrics()
        for problem in problems:
            warn(f"{problem}: it is left out")
        with writing.writing(folder.path):
            page = report.write_page(folder, lines)
            try:
                report.draw(folder, warn, lines, flags.format)
            except MissingExtra as error:
                warn(f"no figures were drawn: {error}")
        console().print(f"page: {page}", soft_wrap=True, highlight=False)
