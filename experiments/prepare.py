"""Puts CIFAR-100 where the experiments find it, as tensorflow-datasets stores it.

python -m experiments.prepare                    # downloads 169 MB
python -m experiments.prepare --archive FILE     # cifar-100-binary.tar.gz is here already
"""

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from cil_jax.cli import command_parser, guarded, leave
from cil_jax.data import prepare, tfds


def main(arguments: list[str] | None = None) -> int:
    """The exit code of preparing what the flags ask for."""
    return guarded(lambda: _prepare(arguments))


def _prepare(arguments: list[str] | None) -> None:
    parser = command_parser("prepare", __doc__)
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder of prepared tensorflow-datasets (default: TFDS_DATA_DIR, else tfds' own)",
    )
    parser.add_argument(
        "--archive", metavar="FILE", help="cifar-100-binary.tar.gz, instead of downloading it"
    )
    flags = parser.parse_args(arguments)
    columns = ("downloading", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=bool(flags.archive)) as bar:
        download = bar.add_task("", total=None)
        folder = prepare.prepare(
            flags.data_dir or tfds.default_data_dir(),
            flags.archive,
            progress=lambda done, total: bar.update(download, completed=done, total=total),
        )
    print(f"CIFAR-100 is in {folder}")


if __name__ == "__main__":
    leave(main())
