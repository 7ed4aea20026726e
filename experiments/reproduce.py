"""Published results beside ours, and the runs that make ours.

  python -m experiments.reproduce                      # what is published, and what is run of it
  python -m experiments.reproduce --reduced            # small: one to two hours on two CPU cores
  python -m experiments.reproduce icarl-paper --full   # one row as published, on an accelerator

Runs lie in runs/reproduce/full and runs/reproduce/reduced. What is done is not run again, with
--fast or without, and what was interrupted goes on.
"""

import argparse
from pathlib import Path
from typing import Any

from cil_jax.cli import (
    add_member_flags,
    check_several,
    check_writable,
    command_parser,
    guarded,
    leave,
)
from cil_jax.config import ACCELERATORS, UserError, flag
from cil_jax.launch import run_members


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
    parser.add_argument("--accelerator", choices=ACCELERATORS, help="(default: auto)")
    parser.add_argument("--fast", action="store_true", default=None, help="train faster on a CPU")
    flags = parser.parse_args(arguments)
    for name in ("seeds", "orders", "parallel_members", "data_dir", "accelerator", "fast"):
        if getattr(flags, name) is not None and not flags.protocol:
            raise UserError(f"{flag(name)} is for runs: add --full or --reduced")
    check_writable(flags.markdown)
    check_several(flags.parallel_members, bool(flags.seeds or flags.orders))
    asked = [flags.protocol] if flags.protocol else list(reproduction.PROTOCOLS)
    rows = {protocol: reproduction.rows(flags.rows, protocol) for protocol in asked}
    # Several rows may share one.
    runs = {protocol: list({row.run: row for row in rows[protocol]}.values()) for protocol in asked}
    if flags.protocol:
        _run(runs[flags.protocol], flags)

    from rich.console import Console

    from cil_jax import report

    console, texts = Console(), []
    console.width = max(console.width, 150)  # a narrow terminal breaks lines, and hides nothing

    def say(text):
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    protocols = [protocol for protocol in asked if rows[protocol]]
    for protocol in protocols:
        about = reproduction.ABOUT[protocol]
        lines = reproduction.outcomes(rows[protocol], protocol, flags.folder)
        commands = [reproduction.command(row, protocol, flags.folder) for row in runs[protocol]]
        console.print(report.reproduction(lines, about))
        for folder in dict.fromkeys(path for _, ours, _ in lines for path in ours.others):
            say(f"left out, other settings: {folder}")
        texts.append(report.reproduction_markdown(lines, about, commands))
    for key, source in reproduction.sources().items():
        say(f"{key}: {source}")
    for protocol in protocols:
        say(f"commands, {protocol} protocol:")
        for row in runs[protocol]:
            say(f"  {reproduction.command(row, protocol, flags.folder)}")
    if flags.markdown:
        Path(flags.markdown).write_text("\n\n".join(texts) + "\n")


def _run(rows: list[Any], flags: argparse.Namespace) -> None:
    """What is not done of rows' runs, by the flags of the command."""
    from cil_jax import reproduction

    for name in flags.rows:
        if name not in {row.run for row in rows}:
            raise UserError(f"--{flags.protocol} has no {name}: it is a row of --full")
    how = {
        "data_dir": flags.data_dir,
        "accelerator": flags.accelerator or "auto",
        "fast": bool(flags.fast),
    }
    for row in rows:
        config = reproduction.config(row, flags.protocol, flags.folder, **how)
        run_members(config, flags.seeds, flags.orders, flags.parallel_members or 1)


if __name__ == "__main__":
    leave(main())
