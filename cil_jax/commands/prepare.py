"""Download CIFAR-100 and prepare it in the format of tensorflow-datasets.

  cil-jax prepare                    # downloads 169 MB
  cil-jax prepare --archive FILE     # uses a cifar-100-binary.tar.gz that you have

All commands look for it in the same folder. TensorFlow is not needed.
"""

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from cil_jax.app.command_line import command_parser, guarded
from cil_jax.settings.config import help_of


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code. `arguments` replace those of the command line."""
    return guarded(lambda: _prepare(arguments))


def _prepare(arguments: list[str] | None) -> None:
    parser = command_parser("prepare", __doc__)
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help=help_of("data_dir"),
    )
    parser.add_argument(
        "--archive",
        metavar="FILE",
        help="a cifar-100-binary.tar.gz to use instead of downloading it",
    )
    flags = parser.parse_args(arguments)

    from cil_jax.data import prepare, tfds  # imports JAX

    columns = ("downloading", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=bool(flags.archive)) as bar:
        download = bar.add_task("", total=None)
        folder = prepare.prepare(
            flags.data_dir or tfds.default_data_dir(),
            flags.archive,
            progress=lambda done, total: bar.update(download, completed=done, total=total),
        )
    print(f"CIFAR-100 is ready in {folder}")
