"""Published results beside ours, and the runs that make ours.

  python -m experiments.reproduce                      # what is published, and what is run of it
  python -m experiments.reproduce --reduced            # all rows, small: two hours on two CPU cores
  python -m experiments.reproduce icarl-paper --full   # one row as published, on an accelerator

Runs lie in runs/reproduce/full and runs/reproduce/reduced. What is done is not run again, and what
was interrupted goes on.
"""

import sys
from pathlib import Path

from cil_jax.cli import add_member_flags, command_parser, guarded, run_members


def main(arguments: list[str] | None = None) -> int:
    """The exit code of repeating what the flags ask for."""
    return guarded(lambda: _reproduce(arguments))


def _reproduce(arguments: list[str] | None) -> None:
    from cil_jax import reproduction

    parser = command_parser("reproduce", __doc__)
    parser.add_argument(
        "rows", nargs="*", metavar="RUN", help="such as icarl-paper; all where none is named"
    )
    which = parser.add_mutually_exclusive_group()
    for protocol, about in reproduction.ABOUT.items():
        which.add_argument(
            f"--{protocol}", dest="protocol", action="store_const", const=protocol, help=about
        )
    add_member_flags(parser)
    parser.add_argument(
        "--folder", default="runs/reproduce", metavar="DIR", help="of the runs (runs/reproduce)"
    )
    parser.add_argument("--markdown", metavar="FILE", help="also write the tables to FILE")
    parser.add_argument("--data-dir", metavar="DIR", help="as for the other experiments")
    parser.add_argument(
        "--accelerator", choices=("auto", "cpu", "gpu", "tpu"), default="auto", help="(auto)"
    )
    flags = parser.parse_args(arguments)
    rows = reproduction.rows(flags.rows)
    runs = list({row.run: row for row in rows}.values())  # several rows may share one
    if flags.protocol:
        machine = {"data_dir": flags.data_dir, "accelerator": flags.accelerator}
        for row in runs:
            config = reproduction.config(row, flags.protocol, flags.folder, **machine)
            run_members(config, flags.seeds, flags.orders)

    from rich.console import Console

    from cil_jax import report

    console, texts = Console(), []
    for protocol in [flags.protocol] if flags.protocol else reproduction.PROTOCOLS:
        lines = reproduction.lines(rows, protocol, flags.folder)
        console.print(report.reproduction(lines, reproduction.ABOUT[protocol]))
        texts.append(report.reproduction_markdown(lines, reproduction.ABOUT[protocol]))
    for source in dict.fromkeys(row.source for row in rows):
        console.print(f"published: {source}", highlight=False, soft_wrap=True)
    console.print("commands:", highlight=False)
    for row in runs:
        text = reproduction.command(row, flags.protocol or "full", flags.folder)
        console.print(f"  {text}", highlight=False, soft_wrap=True)
    if flags.markdown:
        Path(flags.markdown).write_text("\n\n".join(texts) + "\n")


if __name__ == "__main__":
    sys.exit(main())
