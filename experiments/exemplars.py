"""How good herded and random exemplars are under one and the same network.

  python -m experiments.exemplars runs/icarl --counts 1 2 5 10 20 50 100

takes the last network of a run and asks how well the nearest mean of so many exemplars a class
classifies all classes seen. Exemplars are chosen anew from all training images: an analysis.
"""

from cil_jax.accelerator import start_accelerator
from cil_jax.cli import command_parser, guarded, leave, saved_settings


def main(arguments: list[str] | None = None) -> int:
    """The exit code of answering what the flags ask."""
    return guarded(lambda: _exemplars(arguments))


def _exemplars(arguments: list[str] | None) -> None:
    parser = command_parser("exemplars", __doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a run")
    parser.add_argument("--data-dir", metavar="DIR", help="as for the other experiments")
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50, 100], metavar="N",
        help="exemplars a class (default: 1 2 5 10 20 50 100)",
    )  # fmt: skip
    parser.add_argument(
        "--draws", type=int, default=10, metavar="N", help="random selections (default: 10)"
    )
    flags = parser.parse_args(arguments)
    config = saved_settings(flags.run, data_dir=flags.data_dir)
    start_accelerator(config.accelerator)

    from rich.console import Console

    from cil_jax import report
    from cil_jax.analysis import selection_by_count
    from cil_jax.observer import Callback
    from cil_jax.protocol import Run
    from cil_jax.record import RunFolder

    run = Run(config, RunFolder(flags.run), Callback())
    rows = selection_by_count(run, flags.counts, flags.draws)
    Console().print(report.selection(rows, run.folder.results()))


if __name__ == "__main__":
    leave(main())
