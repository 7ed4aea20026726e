"""Puts runs of one protocol beside each other, in a table and in a figure.

python -m experiments.compare runs/finetune runs/lwf runs/icarl --figure comparison.png
"""

from rich.console import Console

from cil_jax.cli import command_parser, guarded, leave
from cil_jax.report import compare


def main(arguments: list[str] | None = None) -> int:
    """The exit code of comparing what the flags name."""
    return guarded(lambda: _compare(arguments))


def _compare(arguments: list[str] | None) -> None:
    parser = command_parser("compare", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--figure", metavar="FILE", help="draw the seen accuracy to FILE")
    flags = parser.parse_args(arguments)
    Console().print(compare(flags.runs, flags.figure))


if __name__ == "__main__":
    leave(main())
