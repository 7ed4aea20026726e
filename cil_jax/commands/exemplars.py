"""Compare exemplars chosen by herding with random ones, under the last network of a run.

  cil-jax exemplars runs/icarl --counts 1 2 5 10 20 50 100

For each number of exemplars per class, it prints how well their nearest mean classifies all classes
seen. The exemplars are chosen from all training images, which an incremental learner cannot do.
"""

from cil_jax.app.accelerator import start_accelerator
from cil_jax.app.command_line import (
    add_code_flags,
    check_writable,
    command_parser,
    guarded,
    saved_settings,
)
from cil_jax.settings import code
from cil_jax.settings.config import help_of


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code. `arguments` replace those of the command line."""
    return guarded(lambda: _exemplars(arguments))


def _exemplars(arguments: list[str] | None) -> None:
    parser = command_parser("exemplars", __doc__)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--data-dir", metavar="DIR", help=help_of("data_dir"))
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50, 100], metavar="N",
        help="numbers of exemplars per class (default: 1 2 5 10 20 50 100)",
    )  # fmt: skip
    parser.add_argument(
        "--draws", type=int, default=10, metavar="N",
        help="number of random selections for each count (default: 10)",
    )  # fmt: skip
    parser.add_argument("--figure", metavar="FILE", help="also plot the accuracies to FILE")
    add_code_flags(parser)
    flags = parser.parse_args(arguments)
    check_writable(flags.figure)
    code.name(flags.method, flags.backbone)
    config = saved_settings(flags.run, data_dir=flags.data_dir)
    start_accelerator(config.accelerator)

    from cil_jax import report
    from cil_jax.report import escaping
    from cil_jax.storage.run_folder import RunFolder
    from cil_jax.trained.analysis import selection_by_count
    from cil_jax.training.callbacks import Callback
    from cil_jax.training.loop import Run

    run = Run(config, RunFolder(flags.run), Callback())
    rows = selection_by_count(run, flags.counts, flags.draws)
    escaping.console().print(report.selection(rows, run.folder.results()))
    if flags.figure:
        from cil_jax.report import figures  # needs matplotlib, which is optional
        from cil_jax.report.figure_style import styled, write

        with styled(""):
            write(figures.selection(rows, run.folder.results()), flags.figure)
